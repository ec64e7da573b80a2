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
/// long as the peer allows, and go together. What NIXL refuses is sent again a few times: by the
/// endpoint for notices at first, and by the one of the transfers then.
///
/// Thread safety: for whoever has the agent lock.
class Outbox {
 public:
  Outbox(Agent& agent, PeerTable& peers, EngineCounters& counters)
      : agent_(agent), peers_(peers), counters_(counters) {}

  /// The peer's operation has completed, and it hears of that within the delay.
  void add_success(const std::shared_ptr<Peer>& peer, std::string_view key,
                   std::chrono::microseconds delay, Clock::time_point now);
  /// The peer's operation comes to nothing. Sent at once.
  void add_failure(const std::shared_ptr<Peer>& peer, std::string_view key, std::string_view reason,
                   Clock::time_point now);

  /// Sends what waits, if it is time.
  void send_due(Clock::time_point now);
  /// Sends all that waits, and has NIXL polled for it, as before the agent goes.
  void flush(Clock::time_point now);

  bool empty() const noexcept { return notices_.empty(); }
  /// When `send_due` has something to send; the end of time when nothing waits.
  Clock::time_point due() const noexcept { return empty() ? Clock::time_point::max() : next_due_; }
  /// NIXL must be polled until then: what has been sent without a transfer may still need it.
  Clock::time_point poll_until() const noexcept { return poll_until_; }

 private:
  struct Notice {
    std::shared_ptr<Peer> peer;
    /// Of operations that have completed; or of the one that has failed, for this reason.
    std::vector<std::string> keys;
    std::string failure;
    /// Whether more completions may join: owners that allow no delay may not know notices of many.
    bool open = false;
    int refusals = 0;
  };

  void send_all(Clock::time_point now);
  /// Returns whether nothing is left to do: it is sent, or has been refused too often.
  bool send(Notice& notice);

  Agent& agent_;
  PeerTable& peers_;
  EngineCounters& counters_;
  /// Few at a time.
  std::vector<Notice> notices_;
  Clock::time_point next_due_;
  Clock::time_point last_sent_;
  Clock::time_point poll_until_;
};

NIXL_CONNECT_NAMESPACE_END
