#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "agent/agent.h"
#include "agent/host_keys.h"
#include "agent/memory_registry.h"
#include "claims/own_offers.h"
#include "engine/clock.h"
#include "engine/outcome.h"
#include "wire/blob.h"
#include "wire/metadata_encoder.h"
#include "wire/notification.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// The passive operations: what is registered for them, what their metadata says, and which of them
/// a notification is about.
///
/// Thread safety: for whoever has the agent lock.
class Offers {
 public:
  /// `foreign_peers` is as of `ConnectorOptions`.
  Offers(Agent& agent, MemoryRegistry& registry, std::optional<bool> foreign_peers,
         std::size_t max_linger_bytes);

  /// Registers the operation's memory and makes its metadata: a peer may act from now on. Returns
  /// why none could, when the metadata is larger than peers take. Throws `AgentError`. What it has
  /// registered is in the flight's lease then, too.
  std::optional<Failure> open(const OperationPtr& operation);
  /// The operation has ended on this side: nobody begins with it any more. Returns whether its
  /// memory must stay registered and alive, because somebody is at it, or a peer that makes no
  /// claims may be for so long; `review` then tells when that is over.
  bool withdraw(const OperationPtr& operation, Clock::time_point now, Clock::duration linger);
  /// Peers are not waited for any more. Harmless when it is no offer.
  void remove(Operation& operation);
  /// Appends what a notification says of operations that have come to an end with it; mostly of
  /// one, of none when nothing waits for it.
  void take(std::string_view sender, const Notice& notice, Clock::time_point now,
            std::vector<Event>& events);
  /// Takes a place for each claim that comes by a message, and appends the answers.
  void answer(std::string_view sender, const Notice& notice, Clock::time_point now,
              ClaimAnswers& answers);
  /// Looks, if it is time, whether readers have failed or died, or nobody is at an offer any more
  /// that lingers.
  void review(Clock::time_point now, std::vector<Event>& events);
  /// Whether somebody is at an offer that lingers.
  bool is_any_in_use() const noexcept;

  /// Whether these regions are within what the offer with this key has, and may be used so. What
  /// names this agent itself needs no remote key, so nothing else keeps it from other memory.
  bool allows(std::string_view key, OperationKind kind, const std::vector<Region>& regions);

  bool empty() const noexcept { return open_.empty(); }
  std::size_t size() const noexcept { return open_.size(); }
  /// Those that are not small.
  std::size_t large() const noexcept { return large_; }
  /// Those that linger, and their bytes.
  std::size_t lingering() const noexcept { return lingering_.size(); }
  std::size_t lingering_bytes() const noexcept { return lingering_bytes_; }
  /// How others connect to this agent.
  /// Whether each registration has a remote key of its own, as with RDMA. Asks NIXL once.
  bool keys_differ();
  std::string_view connection_information() const noexcept {
    return connections_ == nullptr ? std::string_view() : connections_->bytes();
  }
  /// Operations that notifications were about; and late, duplicate and foreign notifications, which
  /// are dropped.
  std::uint64_t matched() const noexcept { return matched_; }
  std::uint64_t unknown() const noexcept { return unknown_; }

  template <typename Visit>
  void for_each(Visit visit) const {
    for (const auto& [key, operation] : open_) visit(operation);
  }

 private:
  /// By the key, which the operation holds.
  using Open = std::unordered_map<std::string_view, OperationPtr>;

  void note_done(Operation& operation, std::string_view sender);
  static void note_failed(Operation& operation, std::uint32_t count, std::string reason);
  /// Appends the operation's end if all its readers have ended.
  void conclude(const OperationPtr& operation, Clock::time_point now, std::vector<Event>& events);
  void review(const OperationPtr& operation, Clock::time_point now, bool thoroughly,
              std::vector<Event>& events);
  void linger(const OperationPtr& operation, Clock::time_point now, Clock::duration duration);
  static bool is_in_use(const Operation& operation) noexcept;
  /// Whether peers that make no claims are about.
  bool peers_may_not_claim();

  /// What to send to a peer that may use these regions.
  std::string blob_of(const std::vector<Region>& regions);
  Open::iterator find(std::string_view key);

  Agent& agent_;
  MemoryRegistry& registry_;
  const std::shared_ptr<OwnOffers> table_;
  const std::optional<bool> foreign_peers_;
  const std::size_t max_linger_bytes_;
  /// Whether somebody has read without a claim.
  bool foreign_seen_ = false;
  /// Whether remote keys are of registrations, as they are with RDMA: nobody claims then. Nothing
  /// before it was of interest.
  std::optional<bool> keys_differ_;
  HostKeys host_keys_;
  /// The agent's connection information; null when this NIXL writes it in an unknown form.
  std::shared_ptr<const Blob> connections_;
  std::shared_ptr<const MetadataEncoder> encoder_;
  Open open_;
  /// In the order in which they began to.
  std::map<std::uint64_t, OperationPtr> lingering_;
  std::uint64_t lingered_ = 0;
  std::size_t lingering_bytes_ = 0;
  /// When everything is looked through again; and when something is, at the earliest.
  Clock::time_point next_review_{};
  Clock::time_point no_review_before_{};
  std::uint64_t reports_seen_ = 0;
  std::size_t large_ = 0;
  std::uint64_t matched_ = 0;
  std::uint64_t unknown_ = 0;
};

NIXL_CONNECT_NAMESPACE_END
