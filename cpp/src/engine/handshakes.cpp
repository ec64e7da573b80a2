#include "engine/handshakes.h"

#include <algorithm>
#include <utility>

#include "nixl_connect/error.h"
#include "wire/offer_location.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// Which no claim has.
constexpr std::uint64_t kGreeting = std::uint64_t{1} << 63;
/// After such a time a greeting is repeated.
constexpr std::chrono::seconds kPatience{1};

}  // namespace

std::optional<Outcome> Handshakes::begin(const OperationPtr& operation, Clock::time_point now) {
  if (auto failure = load(*operation)) return Outcome::failed(std::move(*failure));
  const bool answers = OfferLocation::of_key(operation->request.key).has_value();
  if (operation->flight.peer->is_self || !answers) return Outcome::complete();
  operation->flight.phase = Phase::claiming;
  waiting_.push_back({operation, now, Silence(now), {}, {}});
  greet(waiting_.back(), now);
  return std::nullopt;
}

std::optional<Failure> Handshakes::load(Operation& operation) {
  if (auto gone = admission_.look_for_owner(operation)) return gone;
  try {
    operation.flight.peer = peers_.connect(operation.flight.remote, offers_.keys_differ());
    return std::nullopt;
  } catch (const AgentError& error) {
    return Failure{ErrorCode::peer_unreachable,
                   operation.request.describe() + ": " + kNotLoaded + error.what()};
  }
}

void Handshakes::greet(Waiting& waiting, Clock::time_point now) {
  waiting.greeted = now;
  const auto& peer = waiting.operation->flight.peer;
  const std::array<std::shared_ptr<Peer>, kEndpoints> endpoints{peer, peer->notice_endpoint};
  for (std::size_t which = 0; which < kEndpoints; ++which) {
    const auto& endpoint = endpoints[which];
    if (endpoint == nullptr) waiting.answered[which] = true;
    if (waiting.answered[which]) continue;
    const std::uint64_t number = kGreeting | ++last_number_;
    waiting.greetings.push_back({number, which, endpoint});
    outbox_.add_message(endpoint, claim_message({{number, {}}}, offers_.connection_information()),
                        now);
  }
}

void Handshakes::take(std::string_view sender, const Notice& notice, std::vector<Event>& events) {
  std::erase_if(waiting_, [&](Waiting& waiting) {
    for (const Greeting& greeting : waiting.greetings) {
      const bool is_answer =
          std::any_of(notice.answers.begin(), notice.answers.end(),
                      [&](const auto& answer) { return answer.first == greeting.number; });
      if (!is_answer) continue;
      const std::string& expected = greeting.endpoint->name;
      if (sender != expected) {
        events.push_back({waiting.operation, Outcome::failed(answered_by_another(
                                                 *waiting.operation, sender, expected))});
        return true;
      }
      peers_.succeeded(*greeting.endpoint);
      waiting.answered[greeting.which] = true;
    }
    if (waiting.is_done()) events.push_back({waiting.operation, Outcome::complete()});
    return waiting.is_done();
  });
}

void Handshakes::poll(Clock::time_point now, std::vector<Event>& events) {
  std::erase_if(waiting_, [&](Waiting& waiting) {
    if (waiting.operation->progress.ended()) {
      events.push_back({waiting.operation, {}});
      return true;
    }
    if (now < waiting.greeted + kPatience) return false;
    const std::shared_ptr<Peer> before = waiting.operation->flight.peer;
    auto failure = load(*waiting.operation);
    if (waiting.operation->flight.peer != before) waiting.silence.endpoint_failed(now);
    if (!failure && waiting.silence.is_too_long(now)) {
      failure = peer_is_gone(*waiting.operation, before->reached, kSilent);
    }
    if (failure) {
      events.push_back({waiting.operation, Outcome::failed(std::move(*failure))});
      return true;
    }
    greet(waiting, now);
    return false;
  });
}

NIXL_CONNECT_NAMESPACE_END
