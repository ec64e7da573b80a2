#include "agent/agent.h"

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string_view>

#include "nixl_connect/error.h"
#include "system/close_on_exec.h"
#include "system/random.h"
#include "wire/hex.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

std::string describe(const char* call, capi::Status status) {
  std::string text = std::string(call) + ": ";
  switch (status) {
    case capi::kInvalidParameter: text += "invalid parameter"; break;
    case capi::kBackend: text += "backend error"; break;
    case capi::kInvalidState: text += "invalid state"; break;
    case capi::kException: text += "exception"; break;
    case capi::kNotFound: text += "not found"; break;
    default: text += "error"; break;
  }
  return text + " (NIXL status " + std::to_string(status) + ")";
}

/// A handle of NIXL's, with the function that gives it back.
template <typename Handle>
using Scoped = std::unique_ptr<Handle, capi::Status (*)(Handle*)>;

/// A buffer that NIXL has made with `malloc`.
std::string take_buffer(void* data, std::size_t size) {
  const std::unique_ptr<void, void (*)(void*)> owner(data, &std::free);
  return {static_cast<const char*>(data), size};
}

}  // namespace

AgentError::AgentError(const char* call, capi::Status status)
    : std::runtime_error(describe(call, status)), status_(status) {}

Transfer::~Transfer() {
  if (request_ == nullptr) return;
  // A request that NIXL will not release is not freed: leaking it is the safe side.
  if (api_->release_xfer_req(agent_, request_) == capi::kSuccess) {
    api_->destroy_xfer_req(request_);
  }
}

bool Transfer::post() {
  const capi::Status status = api_->post_xfer_req(agent_, request_, nullptr);
  if (status < 0) throw AgentError("post_xfer_req", status);
  return status == capi::kSuccess;
}

bool Transfer::done() {
  const capi::Status status = api_->get_xfer_status(agent_, request_);
  if (status < 0) throw AgentError("get_xfer_status", status);
  return status == capi::kSuccess;
}

namespace {

struct UcxSetting {
  std::string_view name, value;
  /// What must be as UCX has it by default, or else this is not set.
  std::string_view needs;
};
/// What we ask of UCX where neither the caller nor its environment does.
constexpr UcxSetting kUcxSettings[] = {
    // Without NVLink UCX reads a GPU's memory of another process through the host's, over TCP,
    // though CUDA IPC works there; NIXL itself sets this in versions after 1.5.1
    // (ai-dynamo/nixl#2208).
    {"CUDA_IPC_ENABLE_GET_ZCOPY", "on", ""},
    // Over TCP, and wherever a GPU's memory goes through the host's, UCX copies piece by piece: of
    // 8 KiB if nothing is said. By default every UCX receives pieces of up to 64 KiB.
    {"TCP_TX_SEG_SIZE", "64k", "TCP_RX_SEG_SIZE"},
};

std::map<std::string, std::string> with_ucx_settings(
    std::map<std::string, std::string> parameters) {
  std::string& config = parameters["engine_config"];
  const auto chosen = [&](std::string_view name) {
    return config.find(name) != std::string::npos ||
           std::getenv(("UCX_" + std::string(name)).c_str()) != nullptr;
  };
  for (const auto& [name, value, needs] : kUcxSettings) {
    if (chosen(name) || (!needs.empty() && chosen(needs))) continue;
    config.append(config.empty() ? "" : ",").append(name).append("=").append(value);
  }
  return parameters;
}

}  // namespace

std::string unique_agent_name(const std::string& name) {
  std::uint64_t bits = 0;
  fill_random(&bits, sizeof bits);
  return name + "-" + to_hex({reinterpret_cast<const char*>(&bits), sizeof bits});
}

Agent::Agent(const NixlApi& api, std::string name, const std::string& backend,
             const std::map<std::string, std::string>& parameters, bool progress_thread)
    : api_(api), name_(std::move(name)), registrations_(api), local_(api), remote_(api) {
  capi::AgentConfig config{};
  config.progress_thread = progress_thread;
  config.workers = 1;
  check("create_configured_agent", api_.create_configured_agent(name_.c_str(), &config, &agent_));
  try {
    capi::MemListHandle* memories = nullptr;
    capi::ParamsHandle* defaults = nullptr;
    if (api_.get_plugin_params(agent_, backend.c_str(), &memories, &defaults) != capi::kSuccess) {
      throw Error(ErrorCode::backend, "NIXL (" + api_.path + ") has no backend '" + backend + "'");
    }
    const Scoped<capi::MemListHandle> memories_owner(memories, api_.destroy_mem_list);
    const Scoped<capi::ParamsHandle> params_owner(defaults, api_.destroy_params);
    // That has loaded UCX, which opens nothing before the backend is made.
    close_on_exec_of("libuc");
    for (const auto& [key, value] : backend == "UCX" ? with_ucx_settings(parameters) : parameters) {
      check("params_add", api_.params_add(defaults, key.c_str(), value.c_str()));
    }
    check("create_backend", api_.create_backend(agent_, backend.c_str(), defaults, &backend_));
    check("create_notif_map", api_.create_notif_map(&notifications_));
  } catch (...) {
    if (backend_ != nullptr) api_.destroy_backend(backend_);
    api_.destroy_agent(agent_);
    throw;
  }
}

Agent::~Agent() {
  api_.destroy_notif_map(notifications_);
  api_.destroy_backend(backend_);
  api_.destroy_agent(agent_);
}

void Agent::register_memory(const std::vector<Region>& regions) {
  check("register_mem", api_.register_mem(agent_, registrations_.of(regions), nullptr));
}

void Agent::deregister_memory(const std::vector<Region>& regions) {
  check("deregister_mem", api_.deregister_mem(agent_, registrations_.of(regions), nullptr));
}

std::string Agent::full_metadata() {
  void* data = nullptr;
  std::size_t size = 0;
  check("get_local_md", api_.get_local_md(agent_, &data, &size));
  return take_buffer(data, size);
}

std::string Agent::partial_metadata(const std::vector<Region>& regions) {
  capi::RegListHandle* const list = registrations_.of(regions);
  void* data = nullptr;
  std::size_t size = 0;
  check("get_local_partial_md", api_.get_local_partial_md(agent_, list, &data, &size, nullptr));
  return take_buffer(data, size);
}

std::string Agent::load_remote(std::string_view blob) {
  char* name = nullptr;
  check("load_remote_md", api_.load_remote_md(agent_, blob.data(), blob.size(), &name));
  const std::unique_ptr<char, void (*)(void*)> owner(name, &std::free);
  return name;
}

void Agent::forget_remote(const std::string& peer) noexcept {
  api_.invalidate_remote_md(agent_, peer.c_str());
}

Transfer Agent::create_transfer(OperationKind kind, const std::vector<Region>& local,
                                const std::vector<Region>& remote, const std::string& peer,
                                const std::string& notification) {
  Scoped<capi::OptArgsHandle> options(nullptr, api_.destroy_opt_args);
  if (!notification.empty()) {
    capi::OptArgsHandle* raw = nullptr;
    check("create_opt_args", api_.create_opt_args(&raw));
    options.reset(raw);
    check("opt_args_set_has_notif", api_.opt_args_set_has_notif(options.get(), true));
    check("opt_args_set_notif_msg",
          api_.opt_args_set_notif_msg(options.get(), notification.data(), notification.size()));
  }

  capi::XferRequestHandle* request = nullptr;
  const int operation = kind == OperationKind::read ? capi::kRead : capi::kWrite;
  check("create_xfer_req",
        api_.create_xfer_req(agent_, operation, local_.of(local), remote_.of(remote), peer.c_str(),
                             &request, options.get()));
  return {api_, agent_, request};
}

void Agent::notify(const std::string& peer, std::string_view message) {
  const capi::Status status =
      api_.gen_notif(agent_, peer.c_str(), message.data(), message.size(), nullptr);
  if (status < 0) throw AgentError("gen_notif", status);
}

void Agent::take_notifications(std::vector<std::pair<std::string, std::string>>& messages) {
  check("get_notifs", api_.get_notifs(agent_, notifications_, nullptr));
  std::size_t senders = 0;
  check("notif_map_size", api_.notif_map_size(notifications_, &senders));
  for (std::size_t s = 0; s < senders; ++s) {
    const char* sender = nullptr;
    std::size_t count = 0;
    // A name with a zero byte in it cannot be looked up; nobody waits for such a peer.
    if (api_.notif_map_get_agent_at(notifications_, s, &sender) != capi::kSuccess ||
        api_.notif_map_get_notifs_size(notifications_, sender, &count) != capi::kSuccess) {
      continue;
    }
    for (std::size_t i = 0; i < count; ++i) {
      const void* data = nullptr;
      std::size_t size = 0;
      if (api_.notif_map_get_notif(notifications_, sender, i, &data, &size) == capi::kSuccess) {
        messages.emplace_back(sender, std::string(static_cast<const char*>(data), size));
      }
    }
  }
  if (senders > 0) check("notif_map_clear", api_.notif_map_clear(notifications_));
}

void Agent::check(const char* call, capi::Status status) const {
  if (status != capi::kSuccess) throw AgentError(call, status);
}

NIXL_CONNECT_NAMESPACE_END
