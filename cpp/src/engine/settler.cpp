#include "engine/settler.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "wire/notification.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// How long a copy by a GPU's driver may go on after its transfer has failed: UCX 1.23 fails an
/// endpoint, and the requests that wait for it, while the driver copies, and looks at the copy's
/// memory handle when that is done (`ucp_proto_request_zcopy_completion`). No call tells when.
constexpr Clock::duration kCopyGoesOn = std::chrono::seconds(1);
constexpr std::uint64_t kLeastCopyRate = 250'000'000;  // bytes per second

}  // namespace

bool Settler::may_copy_on(const Operation& operation) noexcept {
  return operation.flight.posted && operation.request.on_device;
}

void Settler::hold(const Operation& operation, OperationPtr ended) {
  const std::chrono::milliseconds copying(operation.request.bytes / (kLeastCopyRate / 1000));
  held_.push_back({Clock::now() + kCopyGoesOn + copying, std::move(ended), operation.flight.lease,
                   operation.flight.peer});
}

void Settler::settle(const OperationPtr& operation, Outcome outcome) {
  Flight& flight = operation->flight;
  const auto now = Clock::now();
  if (flight.claim != nullptr) end_claim(*operation, outcome);
  if (outcome.completed) {
    complete(*operation, now);
  } else {
    if (outcome.failure) operation->fail(std::move(*outcome.failure));
    if (outcome.notify_peer) notify_failure(*operation, now);
    if (outcome.peer_broken) {
      flight.peer->broken = true;
      needs_.peers.failed(*flight.peer);
    }
  }
  needs_.offers.remove(*operation);
  needs_.deadlines.remove(*operation);
  // Parts count as the operation that they are of, and messages not.
  if (flight.whole.operation == nullptr && operation->request.moves_data()) count(*operation, now);
  if (flight.claim_number != 0) needs_.admission.forget(*operation);
  if (outcome.peer_broken && may_copy_on(*operation)) {
    hold(*operation, operation);
    flight.detach();
    return;
  }
  leases_.insert(leases_.end(), flight.lease.begin(), flight.lease.end());
  flight.detach();
  settled_.push_back(operation);
}

void Settler::complete(Operation& operation, Clock::time_point now) {
  Flight& flight = operation.flight;
  if (operation.request.moves_data()) {
    needs_.pacer.completed(now - operation.request.began, !operation.request.small);
    if (flight.peer != nullptr) needs_.peers.succeeded(*flight.peer);
  }
  if (flight.engine_notifies) {
    const auto delay = notice_delay_of(operation.request.key);
    needs_.pacer.peer_allows_delay(delay, now);
    needs_.outbox.add_success(flight.peer, operation.request.key, delay, now,
                              flight.claim == nullptr);
  }
  // Memory that nobody keeps alive for us may be freed as soon as the completion is seen.
  const bool unowned = std::any_of(flight.local.begin(), flight.local.end(),
                                   [](const Descriptor& d) { return d.owner == nullptr; });
  if (unowned) {
    flight.transfer.reset();
    needs_.registry.release(flight.lease);
    flight.lease.clear();
  }
  operation.progress.finish(OperationStatus::complete);
}

void Settler::end_claim(Operation& operation, const Outcome& outcome) {
  Flight& flight = operation.flight;
  if (outcome.completed) {
    flight.claim->done();
  } else {
    // The owner is told by this, and by nothing else.
    const auto known = operation.progress.failure();
    const ErrorCode code = outcome.failure ? outcome.failure->code
                           : known         ? known->code
                                           : ErrorCode::cancelled;
    flight.claim->failed(flight.posted ? ClaimEnd::abandoned : ClaimEnd::unused, to_string(code));
  }
}

void Settler::notify_failure(const Operation& operation, Clock::time_point now) {
  const Peer* const peer = operation.flight.peer.get();
  // A part has no key: the notice is of the whole.
  // Nothing gets through to a peer that is broken, but by a fresh endpoint: for who waits for it.
  const bool in_vain = peer != nullptr && peer->broken && operation.flight.claim_number == 0;
  if (peer == nullptr || in_vain || operation.request.key.empty() ||
      operation.flight.claim != nullptr) {
    return;
  }
  const auto failure = operation.progress.failure();
  needs_.outbox.add_failure(operation.flight.peer, operation.request.key,
                            to_string(failure ? failure->code : ErrorCode::cancelled), now);
}

void Settler::count(const Operation& operation, Clock::time_point now) noexcept {
  const Request& request = operation.request;
  OperationCounters& counters = needs_.counters.of(request.kind, request.passive);
  switch (operation.progress.status()) {
    case OperationStatus::complete:
      counters.count_complete(request.bytes, now - request.began);
      break;
    case OperationStatus::cancelled: counters.cancelled.add(1); break;
    default: counters.count_failure(operation.progress.failure_code()); break;
  }
}

Clock::time_point Settler::next() const noexcept {
  auto first = Clock::time_point::max();
  for (const Held& held : held_) first = std::min(first, held.until);
  return first;
}

std::vector<std::shared_ptr<Releasable>> Settler::left() const {
  std::vector<std::shared_ptr<Releasable>> left = settled_;
  for (const Held& held : held_) {
    if (held.operation != nullptr) left.push_back(held.operation);
  }
  return left;
}

void Settler::give_back(AgentLock& lock) {
  if (!held_.empty()) {
    const auto now = Clock::now();
    const auto due = std::partition(held_.begin(), held_.end(),
                                    [now](const Held& held) { return held.until > now; });
    for (auto held = due; held != held_.end(); ++held) {
      leases_.insert(leases_.end(), held->lease.begin(), held->lease.end());
      if (held->operation != nullptr) settled_.push_back(std::move(held->operation));
    }
    held_.erase(due, held_.end());
  }
  if (settled_.empty() && leases_.empty()) return;
  needs_.registry.release(leases_);
  leases_.clear();
  lock.release_later(settled_);
}

NIXL_CONNECT_NAMESPACE_END
