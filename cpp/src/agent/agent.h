#pragma once

#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "agent/descriptor_list.h"
#include "agent/nixl_api.h"
#include "nixl_connect/api.h"
#include "nixl_connect/metadata.h"
#include "wire/region.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// What a failed NIXL call is to the engine: its name, its status, and words.
class AgentError : public std::runtime_error {
 public:
  AgentError(const char* call, capi::Status status);

  capi::Status status() const noexcept { return status_; }

 private:
  capi::Status status_;
};

/// A transfer that NIXL holds. Released, and with that cancelled if it still runs, on
/// destruction.
class Transfer {
 public:
  Transfer(const NixlApi& api, capi::AgentHandle* agent, capi::XferRequestHandle* request) noexcept
      : api_(&api), agent_(agent), request_(request) {}
  Transfer(Transfer&& other) noexcept
      : api_(other.api_), agent_(other.agent_), request_(std::exchange(other.request_, nullptr)) {}
  Transfer& operator=(Transfer&&) = delete;
  ~Transfer();

  /// Starts it; returns whether it is done already. Throws `AgentError`.
  bool post();
  /// Makes progress, and sends the notification when the data is done; returns whether both
  /// are. Throws `AgentError`.
  bool done();

 private:
  const NixlApi* api_;
  capi::AgentHandle* agent_;
  capi::XferRequestHandle* request_;
};

/// The name with a part that is unique to this process's life: NIXL refuses a peer that has come
/// back under its old name.
std::string unique_agent_name(const std::string& name);

/// One NIXL agent with one backend. Everything it holds goes with it.
///
/// Errors: `AgentError` from each call that NIXL refuses.
/// Thread safety: one thread at a time.
class Agent {
 public:
  Agent(const NixlApi& api, std::string name, const std::string& backend,
        const std::map<std::string, std::string>& parameters, bool progress_thread);
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;
  ~Agent();

  const std::string& name() const noexcept { return name_; }

  /// All regions are of one memory type. NIXL registers all of them or none.
  void register_memory(const std::vector<Region>& regions);
  void deregister_memory(const std::vector<Region>& regions);

  /// Connection information and every registered region.
  std::string full_metadata();
  /// The given regions, each registered exactly so and all of one memory type; with none,
  /// the connection information alone.
  std::string partial_metadata(const std::vector<Region>& regions);

  /// Returns the peer's name.
  std::string load_remote(std::string_view blob);
  /// Forgets all that was loaded for the peer and disconnects it. Harmless when nothing was.
  void forget_remote(const std::string& peer) noexcept;

  /// The peer gets the notification when the transfer has completed, unless it is empty. The lists
  /// match in number and sizes, and each is of one memory type.
  Transfer create_transfer(OperationKind kind, const std::vector<Region>& local,
                           const std::vector<Region>& remote, const std::string& peer,
                           const std::string& notification);

  void notify(const std::string& peer, std::string_view message);
  /// Makes progress, and appends the messages that have arrived, with their senders.
  void take_notifications(std::vector<std::pair<std::string, std::string>>& messages);

 private:
  void check(const char* call, capi::Status status) const;

  const NixlApi& api_;
  const std::string name_;
  capi::AgentHandle* agent_ = nullptr;
  capi::BackendHandle* backend_ = nullptr;
  capi::NotifMapHandle* notifications_ = nullptr;
  DescriptorList<capi::RegListHandle> registrations_;
  DescriptorList<capi::XferListHandle> local_;
  DescriptorList<capi::XferListHandle> remote_;
};

NIXL_CONNECT_NAMESPACE_END
