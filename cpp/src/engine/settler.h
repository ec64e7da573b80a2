#pragma once

#include <vector>

#include "agent/memory_registry.h"
#include "agent/peer_table.h"
#include "engine/admission.h"
#include "engine/agent_lock.h"
#include "engine/clock.h"
#include "engine/counters.h"
#include "engine/deadlines.h"
#include "engine/offers.h"
#include "engine/outbox.h"
#include "engine/outcome.h"
#include "engine/pacer.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Where the engine is done with an operation: whoever waits and the peer are notified, the
/// operation is counted, and what it held is given back.
///
/// Thread safety: for whoever has the agent lock.
class Settler {
 public:
  /// What an operation may be in, and who must know of its end.
  struct Needs {
    EngineCounters& counters;
    MemoryRegistry& registry;
    PeerTable& peers;
    Outbox& outbox;
    Offers& offers;
    Admission& admission;
    Deadlines& deadlines;
    Pacer& pacer;
  };

  explicit Settler(const Needs& needs) : needs_(needs) {}

  /// Ends the operation unless it has ended before. NIXL uses its memory no more, but for a copy
  /// that may go on. An offer or a deadline of it is removed; fences and transfers have handed it
  /// over already.
  void settle(const OperationPtr& operation, Outcome outcome);
  /// Whether a GPU's driver may go on with its copy after the transfer has failed.
  static bool may_copy_on(const Operation& operation) noexcept;
  /// Keeps what such a copy uses of the operation, which goes on without it, or has ended.
  void hold(const Operation& operation, OperationPtr ended = nullptr);
  /// One that nothing was ever done for.
  void drop(OperationPtr operation) { settled_.push_back(std::move(operation)); }

  /// Asks NIXL once to deregister what all that were settled held, and has their memory released
  /// when the agent lock is given up. What a copy may still be using stays until its time has come.
  void give_back(AgentLock& lock);
  /// Whether a copy may still be using memory of an operation that has failed.
  bool holds_memory() const noexcept { return !held_.empty(); }
  /// When the first of that is given back; the end of time when there is none.
  Clock::time_point next() const noexcept;
  /// Those that are not given back yet.
  std::vector<std::shared_ptr<Releasable>> left() const;

 private:
  /// What a failed transfer may still be using.
  struct Held {
    Clock::time_point until;
    /// One that has ended.
    OperationPtr operation;
    MemoryRegistry::Lease lease;
    std::shared_ptr<Peer> peer;
  };

  void complete(Operation& operation, Clock::time_point now);
  /// Before anybody is notified: what they do then may need the place.
  static void end_claim(Operation& operation, const Outcome& outcome);
  void notify_failure(const Operation& operation, Clock::time_point now);
  void count(const Operation& operation, Clock::time_point now) noexcept;

  const Needs needs_;
  std::vector<std::shared_ptr<Releasable>> settled_;
  /// What they held of the registry.
  MemoryRegistry::Lease leases_;
  std::vector<Held> held_;
};

NIXL_CONNECT_NAMESPACE_END
