#include "engine/in_flight.h"

#include <algorithm>
#include <iterator>
#include <utility>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// How many transfers that have not completed are asked after at a poll, at each of a queue's two
/// places: when there is one queue, and when there are several.
constexpr std::size_t kAskedAfter = 2;
constexpr std::size_t kAskedAfterOfSeveral = 1;
/// After so many polls of a queue the asking in turn begins anew.
constexpr int kPollsUntilStart = 256;
/// How many queues are asked at a poll: these, or this fraction of all.
constexpr std::size_t kLeastQueues = 2;
constexpr std::size_t kQueuesFraction = 8;
constexpr std::size_t kMostSpare = 64;

}  // namespace

void InFlight::add(OperationPtr operation) {
  const Peer* const peer = operation->flight.peer.get();
  auto it = by_peer_.find(peer);
  if (it == by_peer_.end()) {
    if (empty()) {
      by_peer_.clear();
      queues_.clear();
    }
    const auto queue = queues_.emplace(queues_.end(), peer);
    it = by_peer_.emplace(peer, queue).first;
  }
  const bool small = operation->request.small;
  operation->flight.phase = Phase::in_flight;
  Operations& operations = it->second->operations;
  if (spare_.empty()) {
    operations.push_back(std::move(operation));
  } else {
    spare_.front() = std::move(operation);
    operations.splice(operations.end(), spare_, spare_.begin());
  }
  if (!small) ++large_;
  ++size_;
}

bool InFlight::is_only(const Operation& operation) const noexcept {
  return size_ == 1 && queues_.front().operations.front().get() == &operation;
}

void InFlight::poll_only(std::vector<Retired>& retired) {
  Queue& queue = queues_.front();
  auto at = queue.operations.begin();
  ask_one(queue, at, retired);
}

void InFlight::poll(Clock::time_point until, std::vector<Retired>& retired) {
  const std::size_t queues = queues_.size();
  std::size_t left = std::min(queues, std::max(kLeastQueues, queues / kQueuesFraction));
  for (; left > 0 && !empty() && Clock::now() < until; --left) {
    const auto queue = queues_.begin();
    poll(*queue, until, retired);
    if (queue->operations.empty() && !empty()) {
      by_peer_.erase(queue->peer);
      queues_.erase(queue);
    } else if (queues > 1) {
      queues_.splice(queues_.end(), queues_, queue);
    }
  }
}

void InFlight::poll(Queue& queue, Clock::time_point until, std::vector<Retired>& retired) {
  Operations& operations = queue.operations;
  // The oldest.
  auto at = operations.begin();
  const std::size_t waiting = ask(queue, at, until, retired);
  // And a few of the others. Those that were passed over come again in time, however many are added
  // behind them.
  bool anew = queue.cursor == operations.end() || ++queue.polls_since_start > kPollsUntilStart;
  auto oldest = operations.begin();
  for (std::size_t i = 0; i < waiting; ++i) anew |= oldest++ == queue.cursor;
  if (anew) {
    queue.cursor = at;
    queue.polls_since_start = 0;
  }
  ask(queue, queue.cursor, until, retired);
}

std::size_t InFlight::ask(Queue& queue, Operations::iterator& at, Clock::time_point until,
                          std::vector<Retired>& retired) {
  const std::size_t most = queues_.size() == 1 ? kAskedAfter : kAskedAfterOfSeveral;
  std::size_t waiting = 0;
  while (at != queue.operations.end() && waiting < most && Clock::now() < until) {
    if (ask_one(queue, at, retired)) continue;
    ++at;
    ++waiting;
  }
  return waiting;
}

bool InFlight::ask_one(Queue& queue, Operations::iterator& at, std::vector<Retired>& retired) {
  std::optional<AgentError> error;
  try {
    if (!(*at)->flight.transfer->done()) return false;
  } catch (const AgentError& caught) {
    error = caught;
  }
  // Before anything is taken out: this may throw.
  retired.emplace_back();
  retired.back().error = std::move(error);
  retired.back().operation = std::move(*at);
  if (!retired.back().operation->request.small) --large_;
  --size_;
  // `at` may be the cursor itself.
  const auto done = at;
  at = std::next(done);
  if (queue.cursor == done) queue.cursor = at;
  if (spare_.size() < kMostSpare) {
    spare_.splice(spare_.begin(), queue.operations, done);
  } else {
    queue.operations.erase(done);
  }
  return true;
}

NIXL_CONNECT_NAMESPACE_END
