#include "engine/transfers.h"

#include <utility>

#include "agent/advice.h"
#include "cuda/cuda_memory.h"
#include "engine/mapped_regions.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// Where memory has gone under a transfer: here, or at a peer of this host; null if it is not that,
/// as far as can be seen.
const char* unmapped_memory(const Flight& flight) {
  const auto& theirs = flight.remote.regions;
  if (!all_mapped(flight.local_regions)) return "here";
  const bool is_self = flight.peer != nullptr && flight.peer->is_self;
  const bool can_ask = flight.claim != nullptr && flight.claim->stands();
  const bool there =
      is_self ? !all_mapped(theirs) : can_ask && !all_mapped_in(flight.claim->owner(), theirs);
  return there ? "of the peer" : nullptr;
}

Outcome not_mapped(const Operation& operation, const char* where) {
  return Outcome::not_posted({ErrorCode::backend, operation.request.describe() +
                                                      ": an address of the memory " + where +
                                                      " is not mapped any more"});
}

}  // namespace

std::optional<Outcome> Transfers::begin(const OperationPtr& operation) {
  const Request& request = operation->request;
  Flight& flight = operation->flight;
  ErrorCode code = ErrorCode::peer_unreachable;
  const char* what = kNotLoaded;
  std::string advice;
  try {
    if (!flight.retried || flight.peer == nullptr) flight.peer = peers_.admit(flight.remote);
    if (operation->progress.ended()) return Outcome::not_posted();
    code = ErrorCode::backend;
    what = "the memory could not be registered: ";
    flight.lease = registry_.acquire(flight.local_regions);
    what = "NIXL refused the transfer: ";
    if (flight.peer->is_self) {
      hold_own_memory(*operation);
      // NIXL 1.5.1 cuts itself off from itself when such a transfer fails, and can then register
      // nothing any more: so it must not fail (seen).
      if (const char* where = unmapped_memory(flight)) return not_mapped(*operation, where);
    }
    flight.engine_notifies = PeerTable::has_notice_endpoint(*flight.peer) && !request.key.empty();
    flight.transfer.emplace(agent_.create_transfer(
        request.kind, flight.local_regions, flight.peer->as_loaded(flight.remote),
        flight.peer->alias, flight.engine_notifies ? std::string() : request.key));
  } catch (const AgentError& error) {
    if (code == ErrorCode::backend) advice = registration_advice(flight.local_regions);
    return Outcome::not_posted({code, request.describe() + ": " + what + error.what() + advice});
  }
  flight.posted = true;
  // To post is to copy, between processes of a host.
  if (!request.small) operation->progress.make_in_progress();
  try {
    if (flight.transfer->post()) return Outcome::complete();
  } catch (const AgentError& error) {
    return broken(*operation, error);
  }
  if (request.small) operation->progress.make_in_progress();
  in_flight_.add(operation);
  return std::nullopt;
}

void Transfers::poll(Clock::time_point until, std::vector<Event>& events) {
  if (in_flight_.empty()) return;
  in_flight_.poll(until, retired_);
  take_retired(events);
}

void Transfers::poll_only(std::vector<Event>& events) {
  in_flight_.poll_only(retired_);
  take_retired(events);
}

void Transfers::take_retired(std::vector<Event>& events) {
  for (const auto& [operation, error] : retired_) {
    events.push_back({operation, error ? broken(*operation, *error) : Outcome::complete()});
  }
  retired_.clear();
}

Outcome Transfers::broken(const Operation& operation, const AgentError& error) {
  const Flight& flight = operation.flight;
  if (const char* where = unmapped_memory(flight)) {
    Outcome outcome = not_mapped(operation, where);
    outcome.peer_broken = true;
    outcome.at_fault = true;
    return outcome;
  }
  const bool reached = flight.peer->reached;
  const bool has_ended = flight.claim != nullptr && flight.claim->owner_ended();
  return Outcome::broken({reached ? ErrorCode::peer_disconnected : ErrorCode::peer_unreachable,
                          operation.request.describe() + ": the peer " +
                              (reached ? "has disconnected: " : "could not be reached: ") +
                              (has_ended ? "its process has ended: " : "") + error.what() +
                              cuda_memory_advice(operation.flight.local_regions)});
}

void Transfers::hold_own_memory(Operation& operation) {
  Flight& flight = operation.flight;
  const Operation* const whole = flight.whole.operation.get();
  const Request& request = whole != nullptr ? whole->request : operation.request;
  if (!offers_.allows(request.key, request.kind, flight.remote.regions)) {
    throw AgentError("the memory is not offered any more", capi::kNotFound);
  }
  const auto own = registry_.acquire(flight.remote.regions);
  flight.lease.insert(flight.lease.end(), own.begin(), own.end());
}

NIXL_CONNECT_NAMESPACE_END
