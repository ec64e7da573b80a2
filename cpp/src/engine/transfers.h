#pragma once

#include <optional>
#include <vector>

#include "agent/agent.h"
#include "agent/memory_registry.h"
#include "agent/peer_table.h"
#include "engine/in_flight.h"
#include "engine/offers.h"
#include "engine/outcome.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// The active operations: admits the peer, registers the memory, posts the transfer, and says what
/// has become of it.
///
/// Thread safety: for whoever has the agent lock.
class Transfers {
 public:
  Transfers(Agent& agent, MemoryRegistry& registry, PeerTable& peers, Offers& offers)
      : agent_(agent), registry_(registry), peers_(peers), offers_(offers) {}

  /// Posts the operation's transfer, unless it has ended. Returns its outcome if it has one
  /// already; nothing when the transfer is in flight.
  std::optional<Outcome> begin(const OperationPtr& operation);
  /// Appends the transfers in flight that have an outcome, of which some are left for the next call
  /// when `until` has passed.
  void poll(Clock::time_point until, std::vector<Event>& events);
  /// The same of the only one in flight.
  void poll_only(std::vector<Event>& events);

  const InFlight& in_flight() const noexcept { return in_flight_; }

  template <typename Visit>
  void for_each(Visit visit) const {
    in_flight_.for_each(visit);
    for (const auto& retired : retired_) visit(retired.operation);
  }

 private:
  /// Of an operation whose transfer has failed.
  static Outcome broken(const Operation& operation, const AgentError& error);
  void take_retired(std::vector<Event>& events);
  /// A transfer to this agent itself uses the registrations of the offer.
  void hold_own_memory(Operation& operation);

  Agent& agent_;
  MemoryRegistry& registry_;
  PeerTable& peers_;
  Offers& offers_;
  InFlight in_flight_;
  std::vector<InFlight::Retired> retired_;
};

NIXL_CONNECT_NAMESPACE_END
