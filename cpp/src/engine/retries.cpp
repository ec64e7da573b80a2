#include "engine/retries.h"

#include <algorithm>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// Whether the peer is there, and its memory is as it was offered.
bool stands(const Flight& flight) {
  return flight.claim != nullptr ? flight.claim->stands() : flight.claim_number != 0;
}

}  // namespace

bool Retries::take(const OperationPtr& operation, Settler& settler) {
  Flight& flight = operation->flight;
  if (flight.retried || operation->progress.ended() || !stands(flight)) return false;
  flight.peer->broken = true;
  peers_.failed(*flight.peer);
  const auto is_its = [&](const Queue& queue) {
    return queue.name == flight.peer->name && queue.address == flight.peer->address;
  };
  auto queue = std::find_if(queues_.begin(), queues_.end(), is_its);
  if (queue == queues_.end()) {
    queue =
        queues_.insert(queues_.end(), {flight.peer->name, flight.peer->address, {}, {}, {}, {}});
  }
  queue->reached |= flight.peer->reached;
  flight.retried = true;
  flight.transfer.reset();
  if (Settler::may_copy_on(*operation)) {
    settler.hold(*operation);
  } else {
    registry_.release(flight.lease);
  }
  flight.lease.clear();
  flight.peer.reset();
  flight.phase = Phase::claiming;
  queue->operations.push_back(operation);
  return true;
}

void Retries::ended(const Operation& operation) {
  for (Queue& queue : queues_) {
    if (queue.current != &operation) continue;
    queue.current = nullptr;
    const bool is_silent =
        operation.flight.claim_number != 0 && queue.endpoint != nullptr && !queue.endpoint->proven;
    const auto failure = operation.progress.failure();
    // Its own deadline says nothing of the others.
    if (is_silent && failure && failure->code != ErrorCode::timed_out) {
      for (const OperationPtr& other : queue.operations) {
        other->fail(peer_is_gone(*other, queue.reached, kSilent));
      }
    }
    if (queue.endpoint != nullptr && queue.endpoint->broken) queue.endpoint.reset();
    return;
  }
}

void Retries::poll(Clock::time_point now, std::vector<OperationPtr>& due) {
  for (auto queue = queues_.begin(); queue != queues_.end();) {
    if (queue->current != nullptr) {
      ++queue;
      continue;
    }
    if (queue->operations.empty()) {
      if (queue->endpoint != nullptr) peers_.adopt(queue->endpoint);
      queue = queues_.erase(queue);
      continue;
    }
    const OperationPtr operation = std::move(queue->operations.front());
    queue->operations.pop_front();
    queue->current = operation.get();
    operation->flight.phase = Phase::fresh;
    try {
      queue->endpoint = peers_.admit_alone(operation->flight.remote, queue->endpoint);
      queue->endpoint->reached |= queue->reached;
      operation->flight.peer = queue->endpoint;
      const bool must_ask = operation->flight.claim_number != 0 && !queue->endpoint->proven;
      if (must_ask && !operation->progress.ended()) {
        admission_.confirm(operation, now);
        ++queue;
        continue;
      }
    } catch (const AgentError&) {
      // To begin it fails likewise.
    }
    due.push_back(operation);
    ++queue;
  }
}

NIXL_CONNECT_NAMESPACE_END
