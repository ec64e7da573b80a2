#pragma once

#include <chrono>
#include <cstddef>

#include "engine/clock.h"
#include "engine/wait.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// What an engine has to do, as far as it decides when to poll.
struct Load {
  /// Passive operations that wait for a peer, and transfers in flight.
  std::size_t operations = 0;
  /// Offers, transfers in flight and operations that wait for a fence, of those that are not small
  /// (`Request::small`); not a part of `operations`.
  std::size_t large = 0;
  /// Whether a peer or NIXL has something to do for us, or a fence has.
  bool pending = false;
  /// Whether a thread that waits for its operation polls meanwhile.
  bool waiter_polls = false;
  /// The next deadline, or when notices are due.
  Clock::time_point next_event = Clock::time_point::max();
};

/// When the engine polls next, how long it waits with notices, and what callers may do themselves:
/// all rules of timing. Times are given, none is asked for.
///
/// With nothing pending the thread sleeps, but for a poll at each 50 ms, so that a late peer still
/// gets its answer. While something is pending and something happened less than `spin` ago it polls
/// without sleeping, but rests for a fraction of what operations take of late, or for the delay
/// that a peer allows: with many in flight each poll then finds several, and callers get the
/// processor. Those who begin operations then poll as well, and while they do so the thread stands
/// by for four such rests. After that it pauses for a fraction of the time since something last
/// happened, a small one when a large operation takes as long as the last one did, and not past the
/// next deadline or notice. While a caller drives the engine, or a waiter polls, it leaves that to
/// them.
///
/// Thread safety: for whoever has the agent lock.
class Pacer {
 public:
  Pacer(std::chrono::microseconds spin, std::chrono::microseconds max_pause,
        Clock::time_point now) noexcept
      : spin_(spin), max_pause_(max_pause), last_work_(now) {}

  // What has happened.

  /// Commands, completions or notifications have come.
  void worked(Clock::time_point now) noexcept { last_work_ = now; }
  /// NIXL has been polled.
  void polled(Clock::time_point now) noexcept {
    last_poll_ = now;
    callers_poll_ = false;
  }
  /// The last poll was one by a caller who has begun an operation.
  void polled_inline() noexcept { callers_poll_ = true; }
  /// An operation has completed so long after it began.
  void completed(Clock::duration age, bool large) noexcept;
  /// The owner of the operations of a peer lets notices wait for so long.
  void peer_allows_delay(std::chrono::microseconds delay, Clock::time_point now) noexcept;
  /// A caller has polled with `Connector::progress`, and will again.
  void driven_externally() noexcept { last_driven_ = last_poll_; }
  /// A caller has begun an operation itself; for a while none does when it was slow.
  void began_inline(Clock::time_point began, Clock::time_point now) noexcept;
  /// A caller has polled for its own transfer, which has completed meanwhile or has not.
  void watched(bool completed) noexcept;

  // What follows.

  /// How the thread waits for its next poll.
  Wait next(const Load& load, Clock::time_point now) const noexcept;
  /// By when there should be a poll for what a caller has begun now: at once, or, with many in
  /// flight, when the thread would poll again if it had not gone to sleep. Never, when nothing is
  /// pending.
  Clock::time_point poll_needed(const Load& load, Clock::time_point now) const noexcept;
  /// Whether callers have polled since the thread began its rest, so that it need not.
  bool polled_enough(const Load& load, Clock::time_point now) const noexcept;
  /// Whether the thread leaves polling to whoever calls `Connector::progress`.
  bool is_driven_externally(Clock::time_point now) const noexcept;
  /// How long the news of a completion may wait for that of others: zero unless so many operations
  /// are about that nobody would notice.
  std::chrono::microseconds notice_delay(const Load& load) const noexcept;
  /// Whether a poll that began then counts as work: it has moved something. Without RDMA, a peer's
  /// data pass through polls.
  static bool was_long(Clock::time_point began, Clock::time_point now) noexcept;

  /// Whether a caller was slow that took so long to begin an operation.
  static bool is_slow(Clock::duration took) noexcept;
  /// Whether callers may register and begin small operations themselves.
  bool may_begin_inline(Clock::time_point now) const noexcept { return now >= not_inline_until_; }
  /// Whether a caller that has just begun one polls, and until when: sooner than the thread, which
  /// then rests on.
  bool may_poll_inline(const Load& load, Clock::time_point now) const noexcept;
  static Clock::time_point inline_poll_ends(Clock::time_point now) noexcept;
  /// Whether a caller polls for its own transfer, the only one in flight, and until when.
  bool may_watch(const Load& load) noexcept;
  static Clock::time_point watch_ends(Clock::time_point now) noexcept;

 private:
  /// Whether a large operation that began when something last happened may complete any moment.
  bool is_due(Clock::duration idle) const noexcept {
    return idle > large_age_ / 8 * 7 && idle < large_age_ / 4 * 5;
  }
  /// Whether it is throughput that counts now.
  bool busy(const Load& load) const noexcept;
  /// How long to leave NIXL alone between two polls while operations come and go: a fraction of
  /// what they take anyway is not missed.
  Clock::duration rest(const Load& load) const noexcept;
  /// Until when the thread leaves polling to callers, who may poll in each rest.
  Clock::time_point standby_ends(const Load& load) const noexcept;

  const Clock::duration spin_;
  const Clock::duration max_pause_;
  Clock::time_point last_work_;
  Clock::time_point last_poll_;
  /// Whether a caller who has begun an operation was the last to poll.
  bool callers_poll_ = false;
  Clock::time_point last_driven_;
  /// How long operations have taken of late.
  std::chrono::duration<double> typical_age_{0};
  /// How long the last large one took.
  Clock::duration large_age_{0};
  /// The delay that peers have allowed last, and until when that counts.
  std::chrono::microseconds peers_delay_{0};
  Clock::time_point peers_delay_until_;
  Clock::time_point not_inline_until_;
  Clock::duration not_inline_pause_{0};
  /// How many transfers nobody watches after one was watched in vain; and how many of them are
  /// left.
  int watch_skips_ = 0;
  int skips_left_ = 0;
};

NIXL_CONNECT_NAMESPACE_END
