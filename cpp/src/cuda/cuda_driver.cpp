#include "cuda/cuda_driver.h"

#include <dlfcn.h>
#include <link.h>

#include <atomic>
#include <cstdlib>
#include <memory>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

const char* library_path() {
  const char* variable = std::getenv("NIXL_CONNECT_CUDA_LIBRARY");
  return variable != nullptr && *variable != '\0' ? variable : "libcuda.so.1";
}

/// How many this process has loaded so far.
unsigned long long libraries_loaded() {
  unsigned long long count = 0;
  ::dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        *static_cast<unsigned long long*>(data) = info->dlpi_adds;
        return 1;
      },
      &count);
  return count;
}

std::unique_ptr<const CudaDriver> load() {
  void* library = ::dlopen(library_path(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return nullptr;
  auto driver = std::make_unique<CudaDriver>();
#define NIXL_CONNECT_RESOLVE(name, symbol, arguments)       \
  driver->name = reinterpret_cast<decltype(driver->name)>(  \
      ::dlsym(library, #symbol)); /* NOLINT: dlsym's way */ \
  if (driver->name == nullptr) return nullptr;
  NIXL_CONNECT_CUDA(NIXL_CONNECT_RESOLVE)
#undef NIXL_CONNECT_RESOLVE
  return driver;
}

}  // namespace

const CudaDriver* CudaDriver::find() {
  // Never destroyed: an engine may still run when static objects are.
  static const CudaDriver* const found = load().release();
  return found;
}

const CudaDriver* CudaDriver::find_loaded() {
  // To look for what is not there takes 50 us; to see that nothing was loaded since, none.
  static std::atomic<unsigned long long> loads_when_missing{0};
  const unsigned long long loads = libraries_loaded();
  if (loads_when_missing == loads) return nullptr;
  void* library = ::dlopen(library_path(), RTLD_LAZY | RTLD_LOCAL | RTLD_NOLOAD);
  if (library == nullptr) {
    loads_when_missing = loads;
    return nullptr;
  }
  ::dlclose(library);
  return find();
}

const char* CudaDriver::name_of(cuda::Result error) const noexcept {
  const char* name = nullptr;
  return GetErrorName(error, &name) == cuda::kSuccess && name != nullptr ? name : "unknown error";
}

NIXL_CONNECT_NAMESPACE_END
