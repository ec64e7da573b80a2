#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "agent/peer_table.h"
#include "engine/admission.h"
#include "engine/offers.h"
#include "engine/operation.h"
#include "engine/outbox.h"
#include "engine/outcome.h"
#include "wire/notification.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Connects to peers before the first transfer does, which would have to wait for it: loads a peer,
/// and greets it by each endpoint that transfers and notices use. An endpoint is connected when the
/// peer has answered. A greeting is a claim of no offer; any owner of this library answers one, and
/// has us loaded then too.
///
/// A peer answers while it polls, as it does while it has an offer open. Without one, and of a peer
/// that does not run this library, no answer is waited for: its endpoints are made, and what else
/// there is to do goes on meanwhile, or with the first transfer. Greetings that are not answered
/// are repeated by endpoints that stand, until the peer is found to have gone, has been silent for
/// long, or the deadline.
///
/// Thread safety: for whoever has the agent lock.
class Handshakes {
 public:
  Handshakes(PeerTable& peers, Outbox& outbox, Admission& admission, Offers& offers)
      : peers_(peers), outbox_(outbox), admission_(admission), offers_(offers) {}

  /// Returns how the operation has ended, unless it waits for answers now.
  std::optional<Outcome> begin(const OperationPtr& operation, Clock::time_point now);
  /// The peers' answers. Those to claims are not for here.
  void take(std::string_view sender, const Notice& notice, std::vector<Event>& events);
  /// Greets again what is due. Appends the operations that have ended.
  void poll(Clock::time_point now, std::vector<Event>& events);

  bool empty() const noexcept { return waiting_.empty(); }
  std::size_t size() const noexcept { return waiting_.size(); }

  template <typename Visit>
  void for_each(Visit visit) const {
    for (const Waiting& waiting : waiting_) visit(waiting.operation);
  }

 private:
  /// That of the transfers, and that of the notices.
  static constexpr std::size_t kEndpoints = 2;
  struct Greeting {
    std::uint64_t number;
    std::size_t which;
    std::shared_ptr<Peer> endpoint;
  };
  struct Waiting {
    OperationPtr operation;
    Clock::time_point greeted;
    Silence silence;
    /// All that were sent: an answer that is late is an answer.
    std::vector<Greeting> greetings;
    std::array<bool, kEndpoints> answered{};

    bool is_done() const noexcept { return answered[0] && answered[1]; }
  };

  /// Loads the peer; returns why that cannot be.
  std::optional<Failure> load(Operation& operation);
  void greet(Waiting& waiting, Clock::time_point now);

  PeerTable& peers_;
  Outbox& outbox_;
  Admission& admission_;
  Offers& offers_;
  std::uint64_t last_number_ = 0;
  /// Few at a time.
  std::vector<Waiting> waiting_;
};

NIXL_CONNECT_NAMESPACE_END
