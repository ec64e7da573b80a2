#include "engine/outbox.h"

#include <algorithm>

#include "wire/notification.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// After so many completions the notice is sent, whatever delay it allows.
constexpr std::size_t kMostKeys = 64;
/// A notice that NIXL refuses is tried again after such a pause, then after twice as long each
/// time, and for so long: the owner's deadline is not known here, and this is what it is by
/// default.
constexpr auto kRefusalPause = std::chrono::milliseconds(1);
constexpr auto kLongestRefusalPause = std::chrono::milliseconds(1000);
constexpr auto kNoticePatience = std::chrono::minutes(5);
/// So often at most where the peer sees by its table what has become of its operation.
constexpr int kMostRefusals = 10;
/// After so many the peer is most likely gone.
constexpr int kHopefulRefusals = 6;
/// So often by an endpoint that is there.
constexpr int kRefusalsOfOne = 3;
/// How long NIXL is polled for a notice that was sent to a peer; to one that may have to be
/// connected first.
constexpr auto kSendTime = std::chrono::milliseconds(5);
constexpr auto kFirstSendTime = std::chrono::milliseconds(100);

}  // namespace

void Outbox::add_success(const std::shared_ptr<Peer>& peer, std::string_view key,
                         std::chrono::microseconds delay, Clock::time_point now, bool must_know) {
  if (delay.count() <= 0) {
    add({peer, {std::string(key)}, {}, false, must_know, now}, now);
    return;
  }
  auto it = std::find_if(notices_.begin(), notices_.end(),
                         [&](const Pending& known) { return known.open && known.peer == peer; });
  if (it == notices_.end()) it = notices_.insert(it, {peer, {}, {}, true, false, now + delay});
  it->must_know |= must_know;
  it->keys.emplace_back(key);
  // The first that is due takes the others along.
  next_due_ = std::min<Clock::time_point>(next_due_, now + delay);
  if (it->keys.size() >= kMostKeys) send_waiting(now);
}

void Outbox::add_failure(const std::shared_ptr<Peer>& peer, std::string_view key,
                         std::string_view reason, Clock::time_point now) {
  add({peer, {}, failure_notice(key, reason), false, true, now}, now);
  flush_until_ =
      std::max<Clock::time_point>(flush_until_, now + (peer->reached ? kSendTime : kFirstSendTime));
}

void Outbox::add_message(const std::shared_ptr<Peer>& peer, std::string message,
                         Clock::time_point now) {
  add({peer, {}, std::move(message), false, false, now}, now);
  flush_until_ = std::max<Clock::time_point>(flush_until_, now + kSendTime);
}

void Outbox::add(Pending notice, Clock::time_point now) {
  if (send(notice, now)) return;
  next_due_ = std::min(next_due_, notice.due);
  notices_.push_back(std::move(notice));
}

void Outbox::send_due(Clock::time_point now) {
  if (now >= next_due_) send_waiting(now);
}

void Outbox::flush(Clock::time_point now) {
  send_waiting(now);
  flush_until_ = std::max<Clock::time_point>(flush_until_, last_sent_ + kSendTime);
}

void Outbox::send_waiting(Clock::time_point now) {
  next_due_ = Clock::time_point::max();
  std::erase_if(notices_, [&](Pending& notice) {
    if ((notice.refusals == 0 || now >= notice.due) && send(notice, now)) return true;
    next_due_ = std::min(next_due_, notice.due);
    return false;
  });
}

bool Outbox::is_hopeful() const noexcept {
  return std::any_of(notices_.begin(), notices_.end(),
                     [](const Pending& notice) { return notice.refusals < kHopefulRefusals; });
}

bool Outbox::send(Pending& notice, Clock::time_point now) {
  notice.open = false;
  last_sent_ = now;
  if (notice.refusals == 0) notice.until = now + kNoticePatience;
  try {
    if (notice.refusals >= kRefusalsOfOne) notice.peer = peers_.fresh(*notice.peer);
    const Peer& peer = *notice.peer;
    const bool by_notice_endpoint = notice.refusals == 0 && PeerTable::has_notice_endpoint(peer);
    agent_.notify(by_notice_endpoint ? peer.notice_endpoint->alias : peer.alias,
                  notice.keys.empty() ? notice.message : success_notice(notice.keys));
    counters_.notifications_sent.add(1);
    return true;
  } catch (const AgentError&) {
    counters_.notifications_refused.add(1);
    // The endpoint may be what is wrong: the next operation has the peer loaded afresh.
    peers_.failed(*notice.peer);
    notice.due =
        now + std::min<Clock::duration>(kLongestRefusalPause,
                                        kRefusalPause * (1 << std::min(notice.refusals, 10)));
    ++notice.refusals;
    // In the end the peer's own deadline ends its side.
    return notice.must_know ? now >= notice.until : notice.refusals >= kMostRefusals;
  }
}

NIXL_CONNECT_NAMESPACE_END
