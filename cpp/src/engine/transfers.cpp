#include "engine/transfers.h"

#include <utility>

#include "cuda/cuda_memory.h"

NIXL_CONNECT_NAMESPACE_BEGIN

std::optional<Outcome> Transfers::begin(const OperationPtr& operation) {
  const Request& request = operation->request;
  Flight& flight = operation->flight;
  ErrorCode code = ErrorCode::peer_unreachable;
  const char* what = "NIXL refused the peer's metadata: ";
  std::string advice;
  try {
    flight.peer = peers_.admit(flight.remote);
    // Ended before it began: nothing is left but to notify the peer.
    if (operation->progress.ended()) return Outcome{false, std::nullopt, true};
    code = ErrorCode::backend;
    what = "the memory could not be registered: ";
    flight.lease = registry_.acquire(flight.local_regions);
    what = "NIXL refused the transfer: ";
    if (flight.peer->is_self) hold_own_memory(flight);
    flight.engine_notifies = PeerTable::has_notice_endpoint(*flight.peer) && !request.key.empty();
    flight.transfer.emplace(agent_.create_transfer(
        request.kind, flight.local_regions, flight.remote.regions, flight.peer->alias,
        flight.engine_notifies ? std::string() : request.key));
  } catch (const AgentError& error) {
    if (code == ErrorCode::backend) advice = cuda_registration_advice(flight.local_regions);
    return Outcome::failed({code, request.describe() + ": " + what + error.what() + advice}, true);
  }
  try {
    if (flight.transfer->post()) return Outcome::complete();
  } catch (const AgentError& error) {
    return broken(*operation, error);
  }
  operation->progress.make_in_progress();
  flights_.add(operation);
  return std::nullopt;
}

void Transfers::poll(Clock::time_point until, std::vector<Event>& events) {
  if (flights_.empty()) return;
  flights_.poll(until, retired_);
  take_retired(events);
}

void Transfers::poll_only(std::vector<Event>& events) {
  flights_.poll_only(retired_);
  take_retired(events);
}

void Transfers::take_retired(std::vector<Event>& events) {
  for (auto& [operation, error] : retired_) {
    Outcome outcome = error ? broken(*operation, *error) : Outcome::complete();
    events.push_back({std::move(operation), std::move(outcome)});
  }
  retired_.clear();
}

Outcome Transfers::broken(Operation& operation, const AgentError& error) {
  Peer& peer = *operation.flight.peer;
  const bool reached = peer.reached;
  Failure failure{reached ? ErrorCode::peer_disconnected : ErrorCode::peer_unreachable,
                  operation.request.describe() + ": the peer " +
                      (reached ? "has disconnected: " : "could not be reached: ") + error.what() +
                      cuda_memory_advice(operation.flight.local_regions)};
  // After the first failure nothing gets through.
  const bool peer_may_hear = !std::exchange(peer.broken, true);
  peers_.failed(peer);
  return Outcome::failed(std::move(failure), peer_may_hear);
}

void Transfers::hold_own_memory(Flight& flight) {
  if (!registry_.covers(flight.remote.regions)) {
    throw AgentError("the memory is not offered any more", capi::kNotFound);
  }
  const auto own = registry_.acquire(flight.remote.regions);
  flight.lease.insert(flight.lease.end(), own.begin(), own.end());
}

NIXL_CONNECT_NAMESPACE_END
