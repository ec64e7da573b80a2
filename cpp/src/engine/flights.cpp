#include "engine/flights.h"

#include <algorithm>
#include <utility>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// How many transfers that have not completed are asked after at a poll, at each of a queue's two
/// places.
constexpr std::size_t kAskedAfter = 2;
/// After so many polls of a queue the asking in turn begins anew.
constexpr int kPollsUntilStart = 256;
/// How many queues are asked at a poll: these, or this fraction of all.
constexpr std::size_t kLeastQueues = 4;
constexpr std::size_t kQueuesFraction = 4;

}  // namespace

void Flights::add(OperationPtr operation) {
  operation->flight.phase = Phase::in_flight;
  if (!operation->request.small) ++large_;
  ++size_;
  const Peer* const peer = operation->flight.peer.get();
  auto it = by_peer_.find(peer);
  if (it == by_peer_.end()) {
    it = by_peer_.emplace(peer, queues_.emplace(queues_.end(), peer)).first;
  }
  Queue& queue = *it->second;
  queue.operations.push_back(std::move(operation));
}

bool Flights::is_only(const Operation& operation) const noexcept {
  return size_ == 1 && queues_.front().operations.front().get() == &operation;
}

void Flights::poll_only(std::vector<Retired>& retired) {
  Queue& queue = queues_.front();
  auto at = queue.operations.begin();
  if (!ask_one(queue, at, retired)) return;
  by_peer_.erase(queue.peer);
  queues_.pop_front();
}

void Flights::poll(Clock::time_point until, std::vector<Retired>& retired) {
  const std::size_t queues = queues_.size();
  std::size_t left = std::min(queues, std::max(kLeastQueues, queues / kQueuesFraction));
  for (; left > 0 && Clock::now() < until; --left) {
    const auto queue = queues_.begin();
    poll(*queue, until, retired);
    if (queue->operations.empty()) {
      by_peer_.erase(queue->peer);
      queues_.erase(queue);
    } else if (queues > 1) {
      queues_.splice(queues_.end(), queues_, queue);
    }
  }
}

void Flights::poll(Queue& queue, Clock::time_point until, std::vector<Retired>& retired) {
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

std::size_t Flights::ask(Queue& queue, Operations::iterator& at, Clock::time_point until,
                         std::vector<Retired>& retired) {
  std::size_t waiting = 0;
  while (at != queue.operations.end() && waiting < kAskedAfter && Clock::now() < until) {
    if (ask_one(queue, at, retired)) continue;
    ++at;
    ++waiting;
  }
  return waiting;
}

bool Flights::ask_one(Queue& queue, Operations::iterator& at, std::vector<Retired>& retired) {
  std::optional<AgentError> error;
  try {
    if (!(*at)->flight.transfer->done()) return false;
  } catch (const AgentError& caught) {
    error = caught;
  }
  if (!(*at)->request.small) --large_;
  --size_;
  retired.push_back({std::move(*at), std::move(error)});
  const bool was_cursor = at == queue.cursor;
  at = queue.operations.erase(at);
  if (was_cursor) queue.cursor = at;
  return true;
}

NIXL_CONNECT_NAMESPACE_END
