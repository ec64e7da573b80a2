#include "engine/pacer.h"

#include <algorithm>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

/// With nothing pending: a late peer that still needs an answer gets one.
constexpr auto kIdlePause = milliseconds(50);
/// The shortest sleep that is worth the wake-up.
constexpr auto kShortestPause = microseconds(20);
/// A pause is the time since something last happened, divided by this; once that exceeds
/// `kLongPause`, by the larger one.
constexpr int kPauseDivisor = 8;
constexpr int kLongPauseDivisor = 64;
/// While large operations are about: a completion that is seen late adds to their time. And when
/// one may complete any moment.
constexpr int kLargePauseDivisor = 32;
constexpr int kDuePauseDivisor = 256;
constexpr auto kLongPause = milliseconds(1);
/// A poll that took longer has moved something.
constexpr auto kLongPoll = microseconds(400);
/// While operations come and go, a rest is what they take, divided by this, and at most so long;
/// with many at once, when it is throughput that counts, by the smaller one.
constexpr int kRestDivisor = 64;
constexpr int kBusyRestDivisor = 16;
constexpr std::size_t kManyOperations = 8;
constexpr auto kLongestRest = microseconds(100);
constexpr auto kLongestBusyRest = microseconds(1000);
/// While callers poll the thread stands by for so many rests: each time that it runs, a caller may
/// have to wait for the processor and for the agent lock.
constexpr int kStandbyRests = 4;
/// Operations that take longer count as this, so that rests grow no further.
constexpr auto kLongestAge = kLongestBusyRest * kBusyRestDivisor;
/// How many operations what they take is averaged over.
constexpr double kAgeMemory = 32;
/// When registering and beginning has taken a caller longer than this, the engine's thread does it
/// for a while: for longer each time in a row, as on a host whose drivers are slow, and not for
/// long after a single time.
constexpr auto kQuick = microseconds(250);
constexpr Clock::duration kFirstNotInlinePause = milliseconds(1);
constexpr Clock::duration kNotInlinePause = milliseconds(128);
/// For so long after a call of `progress` the engine's thread leaves polling to the caller, but for
/// a poll of its own in each pause.
constexpr auto kDrivenFor = milliseconds(20);
constexpr auto kDrivenPause = milliseconds(2);
/// A peer that has allowed a delay goes on allowing it for so long.
constexpr auto kDelayLasts = milliseconds(2);
/// How long a caller polls for its own transfer before it leaves it to the thread: as long as a
/// peer that is awake takes to answer.
constexpr auto kWatchTime = microseconds(60);
/// How many transfers it leaves alone at most after it has watched in vain again and again.
constexpr int kMostSkips = 63;

}  // namespace

void Pacer::completed(Clock::duration age, bool large) noexcept {
  if (large) large_age_ = age;
  // One that has waited for long says nothing of those that follow.
  typical_age_ += (std::min<Clock::duration>(age, kLongestAge) - typical_age_) / kAgeMemory;
}

void Pacer::peer_allows_delay(microseconds delay, Clock::time_point now) noexcept {
  if (delay.count() <= 0) return;
  peers_delay_ = delay;
  peers_delay_until_ = now + delay + kDelayLasts;
}

void Pacer::began_inline(Clock::time_point began, Clock::time_point now) noexcept {
  last_work_ = now;
  if (!is_slow(now - began)) {
    not_inline_pause_ = Clock::duration::zero();
    return;
  }
  not_inline_pause_ = not_inline_pause_ == Clock::duration::zero()
                          ? kFirstNotInlinePause
                          : std::min(2 * not_inline_pause_, kNotInlinePause);
  not_inline_until_ = now + not_inline_pause_;
}

void Pacer::watched(bool completed) noexcept {
  // After one in vain the peer is not so quick now; the next ones do not try.
  watch_skips_ = completed ? 0 : std::min(2 * watch_skips_ + 1, kMostSkips);
  skips_left_ = watch_skips_;
}

bool Pacer::busy(const Load& load) const noexcept {
  return load.operations >= kManyOperations || last_work_ < peers_delay_until_;
}

Clock::duration Pacer::rest(const Load& load) const noexcept {
  if (last_work_ < peers_delay_until_) return peers_delay_;
  const auto age = std::chrono::duration_cast<Clock::duration>(typical_age_);
  return busy(load) ? std::min<Clock::duration>(age / kBusyRestDivisor, kLongestBusyRest)
                    : std::min<Clock::duration>(age / kRestDivisor, kLongestRest);
}

Clock::time_point Pacer::standby_ends(const Load& load) const noexcept {
  return last_poll_ + (callers_poll_ ? kStandbyRests : 1) * rest(load);
}

Wait Pacer::next(const Load& load, Clock::time_point now) const noexcept {
  using Mode = Wait::Mode;
  if (is_driven_externally(now)) return {now + kDrivenPause, Mode::rest};
  // The waiter wakes the thread when it stops.
  if (load.waiter_polls) return {now + kDrivenPause, Mode::sleep};
  Clock::time_point until = now + kIdlePause;
  if (load.pending) {
    const auto idle = now - last_work_;
    const auto rest_now = rest(load);
    if (idle < spin_) {
      if (rest_now < kShortestPause) return {now, Mode::none};
      if (busy(load)) return {standby_ends(load), Mode::standby};
      return {now + rest_now, Mode::rest};
    }
    const int divisor = load.large == 0 ? kPauseDivisor
                        : is_due(idle)  ? kDuePauseDivisor
                                        : kLargePauseDivisor;
    const auto pause = std::min<Clock::duration>(
        idle / divisor, std::max<Clock::duration>(idle / kLongPauseDivisor, kLongPause));
    const auto least = busy(load) ? std::max<Clock::duration>(rest_now, kShortestPause)
                                  : Clock::duration(kShortestPause);
    until = now + std::min(std::max(pause, least), max_pause_);
  }
  return {std::min(until, load.next_event), Mode::sleep};
}

Clock::time_point Pacer::poll_needed(const Load& load, Clock::time_point now) const noexcept {
  if (!load.pending) return Clock::time_point::max();
  return busy(load) ? now + rest(load) : now;
}

bool Pacer::polled_enough(const Load& load, Clock::time_point now) const noexcept {
  return busy(load) && !is_driven_externally(now) && now < standby_ends(load);
}

bool Pacer::is_driven_externally(Clock::time_point now) const noexcept {
  return now - last_driven_ < kDrivenFor;
}

microseconds Pacer::notice_delay(const Load& load) const noexcept {
  const auto delay = rest(load);
  if (!busy(load) || delay < kShortestPause) return {};
  return std::chrono::duration_cast<microseconds>(delay);
}

bool Pacer::was_long(Clock::time_point began, Clock::time_point now) noexcept {
  return now - began > kLongPoll;
}

bool Pacer::is_slow(Clock::duration took) noexcept { return took > kQuick; }

bool Pacer::may_poll_inline(const Load& load, Clock::time_point now) const noexcept {
  if (!busy(load)) return false;
  return now - last_poll_ > std::max<Clock::duration>(rest(load) / 2, kShortestPause);
}

Clock::time_point Pacer::inline_poll_ends(Clock::time_point now) noexcept { return now + kQuick; }

bool Pacer::may_watch(const Load& load) noexcept {
  if (busy(load)) return false;
  if (skips_left_ == 0) return true;
  --skips_left_;
  return false;
}

Clock::time_point Pacer::watch_ends(Clock::time_point now) noexcept { return now + kWatchTime; }

NIXL_CONNECT_NAMESPACE_END
