#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "agent/peer_table.h"
#include "claims/claim.h"
#include "engine/operation.h"
#include "engine/outbox.h"
#include "engine/outcome.h"
#include "engine/silence.h"
#include "wire/notification.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// An answer has come from somebody else than who was asked.
Failure answered_by_another(const Operation& operation, std::string_view sender,
                            const std::string& expected);

/// The peer has ended, or is taken to have. `reached` is whether it was ever heard of.
Failure peer_is_gone(const Operation& operation, bool reached, const std::string& why);

/// Why, of one that is silent.
inline constexpr const char* kSilent = "it does not answer";

/// Claims a place of the peer's offer for each active operation, before it may begin: in the
/// owner's table, where that can be reached; by messages elsewhere. Owners that know nothing of
/// claims are not asked.
///
/// A message is sent again each second, for it is lost when its endpoint fails, and NIXL tells of
/// that only who sends. An owner that cannot be reached afresh, or stays silent for long, is taken
/// for dead.
///
/// Thread safety: for whoever has the agent lock.
class Admission {
 public:
  Admission(PeerTable& peers, Outbox& outbox);

  /// Returns why the operation may not begin. It may when it is `admitted` now; else its phase is
  /// `claiming`, and `poll` gives it back.
  std::optional<Failure> ask(const OperationPtr& operation);
  /// Asks again for what was granted, by the operation's own endpoint, a fresh one: whether the
  /// owner is there. `poll` gives the operation back, admitted or failed.
  void confirm(const OperationPtr& operation, Clock::time_point now);
  /// Why the operation cannot be, if its owner's process is seen to have ended.
  std::optional<Failure> look_for_owner(const Operation& operation);
  /// Tells the owner that its offer is not wanted; returns how that went.
  std::optional<Outcome> decline(Operation& operation, Clock::time_point now);
  /// Appends the operations that wait no more: those that are admitted, and those that have ended.
  void poll(Clock::time_point now, std::vector<OperationPtr>& passed);
  /// The owner's answers.
  void take(std::string_view sender, const Notice& notice);
  /// Answers a peer's claims. Throws what cannot be read, or reached.
  void reply(const Notice& notice, const ClaimAnswers& answers, Clock::time_point now);
  /// Sends the claims that wait for others.
  void send(std::string_view connection_information, Clock::time_point now);
  /// The operation has come to its end.
  void forget(const Operation& operation) { granted_.erase(operation.flight.claim_number); }

  bool empty() const noexcept { return asked_.empty() && busy_.empty(); }
  std::size_t size() const noexcept { return asked_.size() + busy_.size(); }

  template <typename Visit>
  void for_each(Visit visit) const {
    for (const auto& [number, asked] : asked_) visit(asked.operation);
    for (const OperationPtr& operation : busy_) visit(operation);
    for (const OperationPtr& operation : answered_) visit(operation);
  }

 private:
  struct Asked {
    OperationPtr operation;
    Clock::time_point last;
    Silence silence;
  };
  struct Granted {
    std::shared_ptr<Peer> peer;
    Clock::time_point said_alive;
  };

  std::optional<Failure> ask_by_message(const OperationPtr& operation);
  /// Asks once more, if it is time; the owner may be seen to be gone.
  void ask_again(Asked& asked, Clock::time_point now);
  void say_alive(Clock::time_point now);

  PeerTable& peers_;
  Outbox& outbox_;
  /// Whether a peer of this host may be reached by TCP, where a bad address would be its death: it
  /// is not, unless `UCX_TLS` says so, as where its table can be reached its memory can.
  const bool checks_addresses_;
  Claims claims_;
  std::uint64_t last_number_ = 0;
  /// By the claim's number.
  std::unordered_map<std::uint64_t, Asked> asked_;
  std::vector<OperationPtr> unsent_;
  /// Granted or refused since the last poll.
  std::vector<OperationPtr> answered_;
  /// Whose owners' slots were full of claimants.
  std::vector<OperationPtr> busy_;
  std::unordered_map<std::uint64_t, Granted> granted_;
  Clock::time_point next_alive_{};
};

NIXL_CONNECT_NAMESPACE_END
