#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// NIXL's C interface (`libnixl_capi.so`), as far as it is used here. The interface is the
/// one of NIXL 0.10 to 1.5, whose libraries all export these functions with these arguments.
namespace capi {

using Status = int;
inline constexpr Status kSuccess = 0;
inline constexpr Status kInvalidParameter = -1;
inline constexpr Status kBackend = -2;
inline constexpr Status kInvalidState = -3;
inline constexpr Status kException = -4;
inline constexpr Status kNotFound = -6;

enum TransferOperation : int { kRead = 0, kWrite = 1 };

struct AgentConfig {
  bool progress_thread;
  bool listen_thread;
  int listen_port;
  int thread_sync;
  unsigned int workers;
  std::uint64_t progress_delay_us;
  std::uint64_t listen_delay_us;
  bool telemetry;
};

struct AgentHandle;
struct BackendHandle;
struct ParamsHandle;
struct MemListHandle;
struct OptArgsHandle;
struct RegListHandle;
struct XferListHandle;
struct XferRequestHandle;
struct NotifMapHandle;

}  // namespace capi

/// The functions of one loaded NIXL library, each checked to be there.
///
/// The library stays loaded until the process ends: UCX does not survive being unloaded.
/// Thread safety: immutable once loaded.
struct NixlApi {
  /// Finds and loads the library once for each path, and never unloads it. Tries, in this
  /// order: `explicit_path`; the environment variable `NIXL_CONNECT_NIXL_LIBRARY`; a copy
  /// that the process has loaded already, or one beside a loaded `libnixl.so`, so that
  /// another user of NIXL in the process shares its one UCX; `candidates`; the system's
  /// search path. Throws `Error(nixl_not_found)` that lists what was tried.
  static const NixlApi& load(const std::string& explicit_path,
                             const std::vector<std::string>& candidates);

  std::string path;

#define NIXL_CONNECT_CAPI(X)                                                                       \
  X(create_configured_agent, (const char*, const capi::AgentConfig*, capi::AgentHandle**))         \
  X(destroy_agent, (capi::AgentHandle*))                                                           \
  X(get_plugin_params,                                                                             \
    (capi::AgentHandle*, const char*, capi::MemListHandle**, capi::ParamsHandle**))                \
  X(destroy_mem_list, (capi::MemListHandle*))                                                      \
  X(destroy_params, (capi::ParamsHandle*))                                                         \
  X(params_add, (capi::ParamsHandle*, const char*, const char*))                                   \
  X(create_backend, (capi::AgentHandle*, const char*, capi::ParamsHandle*, capi::BackendHandle**)) \
  X(destroy_backend, (capi::BackendHandle*))                                                       \
  X(get_local_md, (capi::AgentHandle*, void**, std::size_t*))                                      \
  X(get_local_partial_md,                                                                          \
    (capi::AgentHandle*, capi::RegListHandle*, void**, std::size_t*, capi::OptArgsHandle*))        \
  X(load_remote_md, (capi::AgentHandle*, const void*, std::size_t, char**))                        \
  X(invalidate_remote_md, (capi::AgentHandle*, const char*))                                       \
  X(create_opt_args, (capi::OptArgsHandle**))                                                      \
  X(destroy_opt_args, (capi::OptArgsHandle*))                                                      \
  X(opt_args_set_has_notif, (capi::OptArgsHandle*, bool))                                          \
  X(opt_args_set_notif_msg, (capi::OptArgsHandle*, const void*, std::size_t))                      \
  X(create_reg_dlist, (int, capi::RegListHandle**))                                                \
  X(destroy_reg_dlist, (capi::RegListHandle*))                                                     \
  X(reg_dlist_clear, (capi::RegListHandle*))                                                       \
  X(reg_dlist_add_desc,                                                                            \
    (capi::RegListHandle*, std::uintptr_t, std::size_t, std::uint64_t, const void*, std::size_t))  \
  X(register_mem, (capi::AgentHandle*, capi::RegListHandle*, capi::OptArgsHandle*))                \
  X(deregister_mem, (capi::AgentHandle*, capi::RegListHandle*, capi::OptArgsHandle*))              \
  X(create_xfer_dlist, (int, capi::XferListHandle**))                                              \
  X(destroy_xfer_dlist, (capi::XferListHandle*))                                                   \
  X(xfer_dlist_clear, (capi::XferListHandle*))                                                     \
  X(xfer_dlist_add_desc, (capi::XferListHandle*, std::uintptr_t, std::size_t, std::uint64_t))      \
  X(create_xfer_req, (capi::AgentHandle*, int, capi::XferListHandle*, capi::XferListHandle*,       \
                      const char*, capi::XferRequestHandle**, capi::OptArgsHandle*))               \
  X(post_xfer_req, (capi::AgentHandle*, capi::XferRequestHandle*, capi::OptArgsHandle*))           \
  X(get_xfer_status, (capi::AgentHandle*, capi::XferRequestHandle*))                               \
  X(release_xfer_req, (capi::AgentHandle*, capi::XferRequestHandle*))                              \
  X(destroy_xfer_req, (capi::XferRequestHandle*))                                                  \
  X(gen_notif, (capi::AgentHandle*, const char*, const void*, std::size_t, capi::OptArgsHandle*))  \
  X(create_notif_map, (capi::NotifMapHandle**))                                                    \
  X(destroy_notif_map, (capi::NotifMapHandle*))                                                    \
  X(get_notifs, (capi::AgentHandle*, capi::NotifMapHandle*, capi::OptArgsHandle*))                 \
  X(notif_map_size, (capi::NotifMapHandle*, std::size_t*))                                         \
  X(notif_map_get_agent_at, (capi::NotifMapHandle*, std::size_t, const char**))                    \
  X(notif_map_get_notifs_size, (capi::NotifMapHandle*, const char*, std::size_t*))                 \
  X(notif_map_get_notif,                                                                           \
    (capi::NotifMapHandle*, const char*, std::size_t, const void**, std::size_t*))                 \
  X(notif_map_clear, (capi::NotifMapHandle*))

#define NIXL_CONNECT_DECLARE(name, arguments) capi::Status(*name) arguments = nullptr;
  NIXL_CONNECT_CAPI(NIXL_CONNECT_DECLARE)
#undef NIXL_CONNECT_DECLARE
};

NIXL_CONNECT_NAMESPACE_END
