#include "engine/handshakes.h"

#include <algorithm>
#include <array>

#include "nixl_connect/error.h"
#include "wire/offer_location.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// Which no claim has.
constexpr std::uint64_t kGreeting = std::uint64_t{1} << 63;
/// After such a time a greeting is repeated.
constexpr std::chrono::seconds kPatience{1};

}  // namespace

std::optional<Outcome> Handshakes::begin(const OperationPtr& operation,
                                         std::string_view connection_information,
                                         Clock::time_point now) {
  Flight& flight = operation->flight;
  if (auto gone = admission_.look_for_owner(*operation)) return Outcome::failed(std::move(*gone));
  try {
    flight.peer = peers_.connect(flight.remote);
  } catch (const AgentError& error) {
    return Outcome::failed({ErrorCode::peer_unreachable,
                            operation->request.describe() + ": " + kNotLoaded + error.what()});
  }
  const bool answers = OfferLocation::of_key(operation->request.key).has_value();
  if (flight.peer->is_self || !answers) return Outcome::complete();
  flight.phase = Phase::claiming;
  Greeting greeting{operation, now, {}};
  for (const auto& endpoint : std::array{flight.peer, flight.peer->notice_endpoint}) {
    if (endpoint == nullptr) continue;
    const std::uint64_t number = kGreeting | ++last_number_;
    outbox_.add_message(endpoint, claim_message({{number, {}}}, connection_information), now);
    greeting.unanswered.emplace_back(number, endpoint);
  }
  greetings_.push_back(std::move(greeting));
  return std::nullopt;
}

void Handshakes::take(std::string_view sender, const Notice& notice, std::vector<Event>& events) {
  const auto take_answer = [&](Greeting& greeting) {
    for (const auto& [number, answer] : notice.answers) {
      const auto answered = std::find_if(greeting.unanswered.begin(), greeting.unanswered.end(),
                                         [&](const auto& each) { return each.first == number; });
      if (answered == greeting.unanswered.end()) continue;
      const auto endpoint = answered->second;
      if (sender != endpoint->name) {
        events.push_back({greeting.operation, Outcome::failed(answered_by_another(
                                                  *greeting.operation, sender, endpoint->name))});
        return true;
      }
      peers_.succeeded(*endpoint);
      greeting.unanswered.erase(answered);
    }
    if (greeting.unanswered.empty()) events.push_back({greeting.operation, Outcome::complete()});
    return greeting.unanswered.empty();
  };
  std::erase_if(greetings_, take_answer);
}

void Handshakes::poll(std::string_view connection_information, Clock::time_point now,
                      std::vector<Event>& events) {
  std::vector<OperationPtr> again;
  std::erase_if(greetings_, [&](const Greeting& greeting) {
    const bool ended = greeting.operation->progress.ended();
    const bool is_due = now >= greeting.at + kPatience;
    if (ended) events.push_back({greeting.operation, {}});
    if (!ended && is_due) again.push_back(greeting.operation);
    return ended || is_due;
  });
  for (const OperationPtr& operation : again) {
    if (auto outcome = begin(operation, connection_information, now)) {
      events.push_back({operation, std::move(*outcome)});
    }
  }
}

NIXL_CONNECT_NAMESPACE_END
