#pragma once

#include <deque>
#include <list>
#include <memory>
#include <vector>

#include "agent/memory_registry.h"
#include "agent/peer_table.h"
#include "engine/admission.h"
#include "engine/operation.h"
#include "engine/outcome.h"
#include "engine/settler.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Transfers whose endpoint has broken under them: one operation's bad address breaks it for all
/// that are in flight there. Each but that one is begun again, once, if its offer stands and its
/// peer lives: one at a time for each peer, by an endpoint that nothing else uses, so that none can
/// do the same to the others again. A peer whose process cannot be seen is asked whether it lives,
/// by the claim's message; if it does not answer, all fail that wait for it.
///
/// Thread safety: for whoever has the agent lock.
class Retries {
 public:
  Retries(PeerTable& peers, MemoryRegistry& registry, Admission& admission)
      : peers_(peers), registry_(registry), admission_(admission) {}

  /// Takes an operation whose transfer has failed, to be begun again. Returns false, and does
  /// nothing, when that would be in vain.
  bool take(const OperationPtr& operation, Settler& settler);
  /// The operation has come to its end, retried or not.
  void ended(const Operation& operation);
  /// Appends the operations whose turn it is: to be begun, by their flight's peer.
  void poll(Clock::time_point now, std::vector<OperationPtr>& due);

  bool empty() const noexcept { return queues_.empty(); }

  template <typename Visit>
  void for_each(Visit visit) const {
    for (const Queue& queue : queues_) {
      for (const OperationPtr& operation : queue.operations) visit(operation);
    }
  }

 private:
  /// Of one peer.
  struct Queue {
    std::string name;
    std::string address;
    bool reached = false;
    std::deque<OperationPtr> operations;
    /// The one that has been begun.
    const Operation* current = nullptr;
    /// Its endpoint; the next one's too, if it holds.
    std::shared_ptr<Peer> endpoint;
  };

  PeerTable& peers_;
  MemoryRegistry& registry_;
  Admission& admission_;
  /// Few at a time.
  std::list<Queue> queues_;
};

NIXL_CONNECT_NAMESPACE_END
