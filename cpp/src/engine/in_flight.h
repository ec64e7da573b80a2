#pragma once

#include <cstddef>
#include <list>
#include <optional>
#include <unordered_map>
#include <vector>

#include "agent/agent.h"
#include "engine/clock.h"
#include "engine/operation.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// The posted transfers: a queue for each peer, so that a peer which has stopped holds up its own
/// transfers only.
///
/// Transfers to one peer mostly complete in their order, and asking after one costs a poll of all
/// of UCX's interfaces. So of each queue the oldest are asked after until some have not completed,
/// and of the others a few at each poll, in turn. Of many queues a few are polled each time, in
/// turn.
///
/// Thread safety: for whoever has the agent lock.
class InFlight {
 public:
  struct Retired {
    OperationPtr operation;
    /// What NIXL says, if the transfer has failed.
    std::optional<AgentError> error;
  };

  /// The operation's transfer is posted, and is under way.
  void add(OperationPtr operation);
  /// Takes out those whose transfers NIXL has done with, and appends them. Goes on at the next call
  /// when `until` has passed.
  void poll(Clock::time_point until, std::vector<Retired>& retired);
  /// Asks after the only one there is.
  void poll_only(std::vector<Retired>& retired);

  bool empty() const noexcept { return size_ == 0; }
  std::size_t size() const noexcept { return size_; }
  /// Whether it is the only one.
  bool is_only(const Operation& operation) const noexcept;
  /// Those that are not small.
  std::size_t large() const noexcept { return large_; }

  template <typename Visit>
  void for_each(Visit visit) const {
    for (const Queue& queue : queues_) {
      for (const OperationPtr& operation : queue.operations) visit(operation);
    }
  }

 private:
  using Operations = std::list<OperationPtr>;
  /// The transfers to one peer. An empty one stays only when there is no other.
  struct Queue {
    const Peer* peer;
    Operations operations;
    /// Where the last poll ended, among those that are not the oldest.
    Operations::iterator cursor = operations.end();
    int polls_since_start = 0;

    explicit Queue(const Peer* its_peer) : peer(its_peer) {}
    Queue(const Queue&) = delete;
    Queue& operator=(const Queue&) = delete;
  };
  using Queues = std::list<Queue>;

  void poll(Queue& queue, Clock::time_point until, std::vector<Retired>& retired);
  /// Asks after those from `at` on, until some have not completed; moves `at` behind them. Returns
  /// how many those are.
  std::size_t ask(Queue& queue, Operations::iterator& at, Clock::time_point until,
                  std::vector<Retired>& retired);
  /// Asks after one. If NIXL has done with it, takes it out and moves `at` to the next.
  bool ask_one(Queue& queue, Operations::iterator& at, std::vector<Retired>& retired);

  /// The next one to be asked is the first.
  Queues queues_;
  std::unordered_map<const Peer*, Queues::iterator> by_peer_;
  /// Nodes to use again.
  Operations spare_;
  std::size_t size_ = 0;
  std::size_t large_ = 0;
};

NIXL_CONNECT_NAMESPACE_END
