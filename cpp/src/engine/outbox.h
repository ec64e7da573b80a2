#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "agent/agent.h"
#include "agent/peer_table.h"
#include "engine/clock.h"
#include "engine/counters.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Notices to peers: an operation has completed, or has failed. Those of completions wait for as
/// long as the peer allows, and go together. What NIXL refuses is sent again, after pauses that
/// grow: by the notice endpoint at first, by that of the transfers then, and by fresh ones after
/// that, until nobody waits for it any more.
///
/// Thread safety: for whoever has the agent lock.
class Outbox {
 public:
  Outbox(Agent& agent, PeerTable& peers, EngineCounters& counters)
      : agent_(agent), peers_(peers), counters_(counters) {}

  /// The peer's operation has completed; the notice is sent within the delay. `must_know` is
  /// whether the peer has no other way to learn of it.
  void add_success(const std::shared_ptr<Peer>& peer, std::string_view key,
                   std::chrono::microseconds delay, Clock::time_point now, bool must_know = true);
  /// The peer's operation has failed. Sent at once.
  void add_failure(const std::shared_ptr<Peer>& peer, std::string_view key, std::string_view reason,
                   Clock::time_point now);
  /// Sends a message of another form at once.
  void add_message(const std::shared_ptr<Peer>& peer, std::string message, Clock::time_point now);

  /// Sends what waits, if it is time.
  void send_due(Clock::time_point now);
  /// Sends all that waits, and has NIXL polled for it, as before the agent goes.
  void flush(Clock::time_point now);

  bool empty() const noexcept { return notices_.empty(); }
  /// Whether something waits that was not refused again and again.
  bool is_hopeful() const noexcept;
  /// When `send_due` has something to send; the end of time when nothing waits.
  Clock::time_point due() const noexcept { return next_due_; }
  /// NIXL must be polled until then: what has been sent without a transfer may still need it.
  Clock::time_point flush_until() const noexcept { return flush_until_; }

 private:
  struct Pending {
    std::shared_ptr<Peer> peer;
    /// Of operations that have completed. Else there is a message that is ready to be sent.
    std::vector<std::string> keys;
    std::string message;
    /// Whether more completions may join: owners that allow no delay may not know notices of many.
    bool open = false;
    bool must_know = true;
    /// When it is sent at the latest; after a refusal, when it is tried again.
    Clock::time_point due;
    int refusals = 0;
    /// When it is given up.
    Clock::time_point until = Clock::time_point::min();
  };

  /// Sends it, or keeps it to be sent again.
  void add(Pending notice, Clock::time_point now);
  /// Sends all that wait, but those that were refused a moment ago.
  void send_waiting(Clock::time_point now);
  /// Returns whether nothing is left to do: it is sent, or has been refused too often.
  bool send(Pending& notice, Clock::time_point now);

  Agent& agent_;
  PeerTable& peers_;
  EngineCounters& counters_;
  /// Few at a time.
  std::vector<Pending> notices_;
  Clock::time_point next_due_ = Clock::time_point::max();
  Clock::time_point last_sent_;
  Clock::time_point flush_until_;
};

NIXL_CONNECT_NAMESPACE_END
