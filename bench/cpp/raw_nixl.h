#pragma once

#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "agent/nixl_api.h"
#include "wire/region.h"

/// NIXL's C interface with nothing around it, for one thread: what the library is measured
/// against.
class RawNixl {
 public:
  using Request = nixl_connect::capi::XferRequestHandle*;

  explicit RawNixl(const char* name) : api_(nixl_connect::NixlApi::load("", {})) {
    nixl_connect::capi::AgentConfig config{};
    config.workers = 1;
    check(api_.create_configured_agent(name, &config, &agent_), "create_configured_agent");
    nixl_connect::capi::MemListHandle* memories = nullptr;
    nixl_connect::capi::ParamsHandle* parameters = nullptr;
    check(api_.get_plugin_params(agent_, "UCX", &memories, &parameters), "get_plugin_params");
    check(api_.create_backend(agent_, "UCX", parameters, &backend_), "create_backend");
    check(api_.create_notif_map(&notifications_), "create_notif_map");
    api_.destroy_params(parameters);
    api_.destroy_mem_list(memories);
  }
  RawNixl(const RawNixl&) = delete;
  RawNixl& operator=(const RawNixl&) = delete;
  ~RawNixl() {
    api_.destroy_notif_map(notifications_);
    api_.destroy_backend(backend_);
    api_.destroy_agent(agent_);
  }

  void register_memory(const void* data, std::size_t size) {
    auto* list = registrations(data, size);
    check(api_.register_mem(agent_, list, nullptr), "register_mem");
    api_.destroy_reg_dlist(list);
  }

  void deregister_memory(const void* data, std::size_t size) {
    auto* list = registrations(data, size);
    check(api_.deregister_mem(agent_, list, nullptr), "deregister_mem");
    api_.destroy_reg_dlist(list);
  }

  /// The metadata of one region, or the connection information with null.
  std::string metadata(const void* data, std::size_t size) {
    auto* list = registrations(data, size);
    void* bytes = nullptr;
    std::size_t length = 0;
    check(api_.get_local_partial_md(agent_, list, &bytes, &length, nullptr),
          "get_local_partial_md");
    api_.destroy_reg_dlist(list);
    std::string result(static_cast<const char*>(bytes), length);
    std::free(bytes);
    return result;
  }

  void load(std::string_view metadata) {
    char* name = nullptr;
    check(api_.load_remote_md(agent_, metadata.data(), metadata.size(), &name), "load_remote_md");
    std::free(name);
  }

  Request read(const char* peer, std::uintptr_t from, void* to, std::size_t size,
               std::string_view key) {
    nixl_connect::capi::XferListHandle* local = nullptr;
    nixl_connect::capi::XferListHandle* remote = nullptr;
    nixl_connect::capi::OptArgsHandle* options = nullptr;
    api_.create_xfer_dlist(nixl_connect::kDram, &local);
    api_.create_xfer_dlist(nixl_connect::kDram, &remote);
    api_.xfer_dlist_add_desc(local, reinterpret_cast<std::uintptr_t>(to), size, 0);
    api_.xfer_dlist_add_desc(remote, from, size, 0);
    api_.create_opt_args(&options);
    api_.opt_args_set_has_notif(options, true);
    api_.opt_args_set_notif_msg(options, key.data(), key.size());
    Request request = nullptr;
    check(api_.create_xfer_req(agent_, nixl_connect::capi::kRead, local, remote, peer, &request,
                               options),
          "create_xfer_req");
    api_.destroy_opt_args(options);
    api_.destroy_xfer_dlist(remote);
    api_.destroy_xfer_dlist(local);
    if (api_.post_xfer_req(agent_, request, nullptr) < 0) throw std::runtime_error("post_xfer_req");
    return request;
  }

  bool done(Request request) {
    const auto status = api_.get_xfer_status(agent_, request);
    if (status < 0) throw std::runtime_error("get_xfer_status");
    return status == nixl_connect::capi::kSuccess;
  }

  void release(Request request) {
    check(api_.release_xfer_req(agent_, request), "release_xfer_req");
    api_.destroy_xfer_req(request);
  }

  void for_each_notification(const std::function<void(std::string_view)>& visit) {
    check(api_.get_notifs(agent_, notifications_, nullptr), "get_notifs");
    std::size_t senders = 0;
    api_.notif_map_size(notifications_, &senders);
    if (senders == 0) return;
    for (std::size_t s = 0; s < senders; ++s) {
      const char* sender = nullptr;
      std::size_t count = 0;
      api_.notif_map_get_agent_at(notifications_, s, &sender);
      api_.notif_map_get_notifs_size(notifications_, sender, &count);
      for (std::size_t i = 0; i < count; ++i) {
        const void* data = nullptr;
        std::size_t size = 0;
        api_.notif_map_get_notif(notifications_, sender, i, &data, &size);
        visit({static_cast<const char*>(data), size});
      }
    }
    api_.notif_map_clear(notifications_);
  }

 private:
  void check(int status, const char* call) const {
    if (status != nixl_connect::capi::kSuccess) {
      throw std::runtime_error(std::string(call) + ": " + std::to_string(status));
    }
  }

  nixl_connect::capi::RegListHandle* registrations(const void* data, std::size_t size) {
    nixl_connect::capi::RegListHandle* list = nullptr;
    api_.create_reg_dlist(nixl_connect::kDram, &list);
    if (data != nullptr) {
      api_.reg_dlist_add_desc(list, reinterpret_cast<std::uintptr_t>(data), size, 0, nullptr, 0);
    }
    return list;
  }

  const nixl_connect::NixlApi& api_;
  nixl_connect::capi::AgentHandle* agent_ = nullptr;
  nixl_connect::capi::BackendHandle* backend_ = nullptr;
  nixl_connect::capi::NotifMapHandle* notifications_ = nullptr;
};
