#include "engine/admission.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "engine/mapped_regions.h"
#include "nixl_connect/error.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// How often an owner hears that a transfer goes on for which it has granted a place.
constexpr std::chrono::seconds kAlivePause{1};
/// How often an owner is asked that has not answered.
constexpr std::chrono::seconds kAskPause{1};

Failure closed_offer(const Operation& operation) {
  return {ErrorCode::offer_closed,
          operation.request.describe() +
              ": the offer is closed: it was used already by as many as it was made for, was "
              "withdrawn (as one is that its owner does not hold), its deadline has passed, or its "
              "owner has closed"};
}

Failure unmapped_address(const Operation& operation) {
  return {ErrorCode::backend, operation.request.describe() +
                                  ": an address of the peer's memory is not mapped any more"};
}

constexpr const char* kProcessEnded = "its process has ended";

}  // namespace

Admission::Admission(PeerTable& peers, Outbox& outbox)
    : peers_(peers), outbox_(outbox), checks_addresses_(std::getenv("UCX_TLS") != nullptr) {}

std::optional<Failure> Admission::ask(const OperationPtr& operation) {
  Flight& flight = operation->flight;
  const auto location = OfferLocation::of_key(operation->request.key);
  // A part has no key, and is let in with its whole; an owner without a table is not ours.
  flight.admitted = true;
  if (!location) return std::nullopt;
  switch (claims_.claim(*location, flight.claim)) {
    case Claims::Answer::granted:
      if (checks_addresses_ && operation->request.moves_data() &&
          !all_mapped_in(location->process, flight.remote.regions)) {
        return unmapped_address(*operation);
      }
      return std::nullopt;
    case Claims::Answer::refused: return closed_offer(*operation);
    case Claims::Answer::gone:
      return peer_is_gone(*operation, peers_.was_reached(flight.remote), kProcessEnded);
    case Claims::Answer::busy:
      flight.admitted = false;
      flight.phase = Phase::claiming;
      busy_.push_back(operation);
      return std::nullopt;
    case Claims::Answer::elsewhere: break;
  }
  // What has ended, or declines, has nothing to claim: the owner is told.
  if (operation->progress.ended() || !operation->request.declined.empty()) return std::nullopt;
  return ask_by_message(operation);
}

Failure answered_by_another(const Operation& operation, std::string_view sender,
                            const std::string& expected) {
  return {ErrorCode::peer_unreachable, operation.request.describe() + ": another agent, '" +
                                           std::string(sender) + "', answers at the address of '" +
                                           expected + "'"};
}

std::optional<Failure> Admission::ask_by_message(const OperationPtr& operation) {
  Flight& flight = operation->flight;
  try {
    flight.peer = peers_.admit(flight.remote);
  } catch (const AgentError& error) {
    return Failure{ErrorCode::peer_unreachable,
                   operation->request.describe() + ": " + kNotLoaded + error.what()};
  }
  flight.admitted = false;
  flight.phase = Phase::claiming;
  flight.claim_number = ++last_number_;
  const auto now = Clock::now();
  asked_.emplace(flight.claim_number, Asked{operation, now, Silence(now)});
  unsent_.push_back(operation);
  return std::nullopt;
}

void Admission::confirm(const OperationPtr& operation, Clock::time_point now) {
  Flight& flight = operation->flight;
  flight.admitted = false;
  flight.phase = Phase::claiming;
  Silence silence(now);
  silence.endpoint_failed(now);
  asked_.emplace(flight.claim_number, Asked{operation, now, silence});
  unsent_.push_back(operation);
}

void Admission::ask_again(Asked& asked, Clock::time_point now) {
  if (now < asked.last + kAskPause) return;
  asked.last = now;
  Operation& operation = *asked.operation;
  std::shared_ptr<Peer>& peer = operation.flight.peer;
  if (asked.silence.is_too_long(now)) {
    operation.fail(peer_is_gone(operation, peer->reached, kSilent));
    return;
  }
  if (!operation.flight.retried && !peers_.is_current(*peer)) {
    asked.silence.endpoint_failed(now);
    try {
      const auto fresh = peers_.admit(operation.flight.remote);
      fresh->reached |= peer->reached;
      peer = fresh;
    } catch (const AgentError& error) {
      operation.fail(peer_is_gone(operation, peer->reached, error.what()));
      return;
    }
  }
  unsent_.push_back(asked.operation);
}

Failure peer_is_gone(const Operation& operation, bool reached, const std::string& why) {
  return {reached ? ErrorCode::peer_disconnected : ErrorCode::peer_unreachable,
          operation.request.describe() + ": the peer " +
              (reached ? "has disconnected" : "could not be reached") + ": " + why};
}

std::optional<Failure> Admission::look_for_owner(const Operation& operation) {
  const auto location = OfferLocation::of_key(operation.request.key);
  if (!location || !claims_.is_gone(*location)) return std::nullopt;
  return peer_is_gone(operation, peers_.was_reached(operation.flight.remote), kProcessEnded);
}

std::optional<Outcome> Admission::decline(Operation& operation, Clock::time_point now) {
  Flight& flight = operation.flight;
  const std::string& reason = operation.request.declined;
  if (flight.claim != nullptr) {
    flight.claim->failed(ClaimEnd::unused, reason);
    return Outcome::complete();
  }
  try {
    flight.peer = peers_.admit(flight.remote);
  } catch (const AgentError& error) {
    return Outcome::failed(
        {ErrorCode::peer_unreachable, operation.request.describe() + ": " + error.what()});
  }
  outbox_.add_failure(flight.peer, operation.request.key, reason, now);
  return Outcome::complete();
}

void Admission::send(std::string_view connection_information, Clock::time_point now) {
  while (!unsent_.empty()) {
    const auto peer = unsent_.front()->flight.peer;
    std::vector<std::pair<std::uint64_t, std::string>> claims;
    std::erase_if(unsent_, [&](const OperationPtr& operation) {
      if (operation->flight.peer != peer) return false;
      if (asked_.contains(operation->flight.claim_number)) {
        claims.emplace_back(operation->flight.claim_number, operation->request.key);
      }
      return true;
    });
    if (!claims.empty()) {
      outbox_.add_message(peer, claim_message(claims, connection_information), now);
    }
  }
}

void Admission::take(std::string_view sender, const Notice& notice) {
  for (const auto& [number, answer] : notice.answers) {
    const auto it = asked_.find(number);
    if (it == asked_.end()) continue;
    const OperationPtr operation = std::move(it->second.operation);
    asked_.erase(it);
    const std::string& expected = operation->flight.peer->name;
    if (operation->flight.retried) peers_.succeeded(*operation->flight.peer);
    if (sender != expected) {
      operation->fail(answered_by_another(*operation, sender, expected));
    } else if (answer == ClaimAnswer::closed) {
      operation->fail(closed_offer(*operation));
    } else if (answer == ClaimAnswer::unmapped) {
      operation->fail(unmapped_address(*operation));
    } else {
      operation->flight.admitted = true;
      granted_.emplace(number, Granted{operation->flight.peer, Clock::now()});
    }
    // One that is refused has nothing to tell.
    if (!operation->flight.admitted) operation->flight.peer.reset();
    answered_.push_back(operation);
  }
}

void Admission::reply(const Notice& notice, const ClaimAnswers& answers, Clock::time_point now) {
  auto blob = Blob::parse(std::string(notice.connection_information));
  const RemoteOffer claimant = RemoteOffer::resolve(std::move(blob), peers_.backend(), {});
  outbox_.add_message(peers_.admit(claimant), answer_message(answers), now);
}

void Admission::poll(Clock::time_point now, std::vector<OperationPtr>& passed) {
  const auto pass = [&](const OperationPtr& operation) {
    operation->flight.phase = Phase::fresh;
    passed.push_back(operation);
  };
  for (const OperationPtr& operation : answered_) pass(operation);
  answered_.clear();
  for (auto& [number, asked] : asked_) {
    if (!asked.operation->progress.ended()) ask_again(asked, now);
  }
  std::erase_if(asked_, [&](const auto& entry) {
    const OperationPtr& operation = entry.second.operation;
    if (!operation->progress.ended()) return false;
    // The owner may grant it yet.
    operation->flight.admitted = true;
    pass(operation);
    return true;
  });
  std::vector<OperationPtr> busy;
  busy.swap(busy_);
  for (const OperationPtr& operation : busy) {
    operation->flight.phase = Phase::fresh;
    if (operation->progress.ended()) {
      operation->flight.admitted = true;
      pass(operation);
      continue;
    }
    if (auto failure = ask(operation)) operation->fail(std::move(*failure));
    if (operation->flight.phase != Phase::claiming) pass(operation);
  }
  if (!granted_.empty() && now >= next_alive_) say_alive(now);
}

void Admission::say_alive(Clock::time_point now) {
  next_alive_ = now + kAlivePause;
  std::unordered_map<std::shared_ptr<Peer>, std::vector<std::uint64_t>> by_peer;
  for (auto& [number, granted] : granted_) {
    if (now - granted.said_alive < kAlivePause) continue;
    granted.said_alive = now;
    by_peer[granted.peer].push_back(number);
  }
  for (const auto& [peer, numbers] : by_peer) {
    outbox_.add_message(peer, alive_message(numbers), now);
  }
}

NIXL_CONNECT_NAMESPACE_END
