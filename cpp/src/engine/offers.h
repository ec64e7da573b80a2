#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "agent/agent.h"
#include "agent/memory_registry.h"
#include "engine/outcome.h"
#include "wire/blob.h"
#include "wire/metadata_encoder.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// The passive operations: what is registered for them, what their metadata says, and which of them
/// a notification is about.
///
/// Thread safety: for whoever has the agent lock.
class Offers {
 public:
  Offers(Agent& agent, MemoryRegistry& registry);

  /// Registers the operation's memory and makes its metadata: a peer may act from now on. Throws
  /// `AgentError`; what it has registered is in the flight's lease then, too.
  void open(const OperationPtr& operation);
  /// The operation has ended without a word from its peer. Returns whether its memory must stay
  /// registered and alive for a while, because a peer may be at it; it then goes on to be found by
  /// notifications.
  bool must_linger(Operation& operation, bool linger);
  /// Peers are not waited for any more. Harmless when it is no offer.
  void remove(Operation& operation);
  /// Takes the operations out that the notification is about, and appends what it says of each;
  /// mostly one, none when nothing waits for it.
  void take(std::string_view sender, std::string_view message, std::vector<Event>& events);

  /// Whether these regions are within what the offer with this key has, and may be used so. What
  /// names this agent itself needs no remote key, so nothing else keeps it from other memory.
  bool allows(std::string_view key, OperationKind kind, const std::vector<Region>& regions);

  bool empty() const noexcept { return open_.empty(); }
  std::size_t size() const noexcept { return open_.size(); }
  /// Those that are not small.
  std::size_t large() const noexcept { return large_; }
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

  /// What to send to a peer that may use these regions.
  std::string blob_of(const std::vector<Region>& regions);
  Open::iterator find(std::string_view key);
  OperationPtr take(Open::iterator at);

  Agent& agent_;
  MemoryRegistry& registry_;
  /// The agent's connection information; null when this NIXL writes it in an unknown form.
  std::shared_ptr<const Blob> connections_;
  std::shared_ptr<const MetadataEncoder> encoder_;
  Open open_;
  std::size_t large_ = 0;
  std::uint64_t matched_ = 0;
  std::uint64_t unknown_ = 0;
};

NIXL_CONNECT_NAMESPACE_END
