#include "agent/nixl_api.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>

#include "nixl_connect/error.h"
#include "system/loaded_libraries.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

constexpr const char* kLibrary = "libnixl_capi.so";
constexpr const char* kVariable = "NIXL_CONNECT_NIXL_LIBRARY";

std::vector<std::string> from_loaded_nixl() {
  std::vector<std::string> paths = loaded_libraries(kLibrary);
  for (const std::string& nixl : loaded_libraries("libnixl.so")) {
    const auto sibling = std::filesystem::path(nixl).parent_path() / kLibrary;
    if (std::filesystem::exists(sibling)) paths.push_back(sibling.string());
  }
  return paths;
}

/// UCX's EFA module brings the system's libnl in beside the wheel's own copy, and their
/// destructors cross when the process exits (a segmentation fault, seen with bare NIXL
/// 1.5.1). Binding the system's libibverbs to the system's libnl first keeps them apart.
void settle_system_libraries() { ::dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL); }

std::unique_ptr<NixlApi> try_load(const std::string& path, std::string& reason) {
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* error = ::dlerror();
    reason = error != nullptr ? error : "cannot be loaded";
    return nullptr;
  }
  auto api = std::make_unique<NixlApi>();
  api->path = path;
#define NIXL_CONNECT_RESOLVE(name, arguments)                                    \
  api->name = reinterpret_cast<decltype(api->name)>(                             \
      ::dlsym(library, "nixl_capi_" #name)); /* NOLINT: dlsym's way */           \
  if (api->name == nullptr) {                                                    \
    reason = path + ": has no function nixl_capi_" #name " (NIXL before 0.10?)"; \
    return nullptr;                                                              \
  }
  NIXL_CONNECT_CAPI(NIXL_CONNECT_RESOLVE)
#undef NIXL_CONNECT_RESOLVE
  return api;
}

}  // namespace

const NixlApi& NixlApi::load(const std::string& explicit_path,
                             const std::vector<std::string>& candidates) {
  // Never destroyed: an engine may still run when static objects are.
  static std::mutex& mutex = *new std::mutex;
  static auto& loaded = *new std::map<std::string, std::unique_ptr<NixlApi>>;
  const std::lock_guard lock(mutex);

  std::vector<std::string> paths;
  if (!explicit_path.empty()) {
    paths = {explicit_path};
  } else if (const char* variable = std::getenv(kVariable); variable != nullptr && *variable) {
    paths = {variable};
  } else {
    paths = from_loaded_nixl();
    paths.insert(paths.end(), candidates.begin(), candidates.end());
    paths.emplace_back(kLibrary);
  }

  settle_system_libraries();
  std::string tried;
  for (const std::string& path : paths) {
    if (const auto it = loaded.find(path); it != loaded.end()) return *it->second;
    std::string reason;
    if (auto api = try_load(path, reason)) return *(loaded[path] = std::move(api));
    tried += "\n  " + (reason.find(path) == std::string::npos ? path + ": " + reason : reason);
  }
  throw Error(ErrorCode::nixl_not_found,
              "NIXL is not installed, or cannot be loaded. Install it with 'pip install "
              "nixl-connect[cu12]' or 'pip install nixl-connect[cu13]', or name its library in " +
                  std::string(kVariable) + ". Tried:" + tried);
}

NIXL_CONNECT_NAMESPACE_END
