#include "engine/settler.h"

#include <algorithm>
#include <utility>

#include "wire/notification.h"

NIXL_CONNECT_NAMESPACE_BEGIN

void Settler::settle(const OperationPtr& operation, Outcome outcome) {
  Flight& flight = operation->flight;
  const auto now = Clock::now();
  if (outcome.completed) {
    complete(*operation, now);
  } else {
    if (outcome.failure) fail(*operation, std::move(*outcome.failure));
    if (outcome.notify_peer) notify_failure(*operation, now);
  }
  parts_.offers.remove(*operation);
  parts_.deadlines.remove(*operation);
  // Parts count as the operation that they are of.
  if (flight.whole.operation == nullptr) count(*operation, now);
  leases_.insert(leases_.end(), flight.lease.begin(), flight.lease.end());
  flight.lease.clear();
  flight.transfer.reset();
  flight.remote = {};
  flight.peer.reset();
  flight.phase = Phase::settled;
  settled_.push_back(operation);
}

void Settler::complete(Operation& operation, Clock::time_point now) {
  Flight& flight = operation.flight;
  parts_.pacer.completed(now - operation.request.began);
  if (flight.peer != nullptr) parts_.peers.succeeded(*flight.peer);
  if (flight.engine_notifies) {
    const auto delay = notice_delay_of(operation.request.key);
    parts_.pacer.peer_allows_delay(delay, now);
    parts_.outbox.add_success(flight.peer, operation.request.key, delay, now);
  }
  // Memory that nobody keeps alive for us may be freed by whoever learns of the completion.
  const bool unowned = std::any_of(flight.local.begin(), flight.local.end(),
                                   [](const Descriptor& d) { return d.owner == nullptr; });
  if (unowned) {
    flight.transfer.reset();
    parts_.registry.release(flight.lease);
    flight.lease.clear();
  }
  operation.progress.finish(OperationStatus::complete);
}

void Settler::fail(Operation& operation, Failure failure) {
  failure.message += " (after " + in_seconds(Clock::now() - operation.request.began) + ")";
  operation.progress.finish(OperationStatus::errored, std::move(failure));
}

void Settler::notify_failure(const Operation& operation, Clock::time_point now) {
  // The peer of a part hears of the whole.
  if (operation.flight.peer == nullptr || operation.request.key.empty()) return;
  const auto failure = operation.progress.failure();
  parts_.outbox.add_failure(operation.flight.peer, operation.request.key,
                            to_string(failure ? failure->code : ErrorCode::cancelled), now);
}

void Settler::count(const Operation& operation, Clock::time_point now) noexcept {
  const Request& request = operation.request;
  OperationCounters& counters = parts_.counters.of(request.kind, request.passive);
  switch (operation.progress.status()) {
    case OperationStatus::complete:
      counters.count_complete(request.bytes, now - request.began);
      break;
    case OperationStatus::cancelled: counters.cancelled.add(1); break;
    default: counters.errored.add(1); break;
  }
}

void Settler::give_back(AgentLock& lock) {
  if (settled_.empty()) return;
  parts_.registry.release(leases_);
  leases_.clear();
  for (OperationPtr& operation : settled_) lock.release_later(std::move(operation));
  settled_.clear();
}

NIXL_CONNECT_NAMESPACE_END
