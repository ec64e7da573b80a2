#include "engine/outbox.h"

#include <algorithm>

#include "wire/notification.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// After so many completions the notice is sent, whatever delay it allows.
constexpr std::size_t kMostKeys = 64;
/// A notice that NIXL refuses is tried so often, after such a pause.
constexpr int kMostRefusals = 10;
constexpr auto kRefusalPause = std::chrono::milliseconds(1);
/// How long NIXL is polled for a notice that was sent to a peer; to one that may have to be
/// connected first.
constexpr auto kSendTime = std::chrono::milliseconds(5);
constexpr auto kFirstSendTime = std::chrono::milliseconds(100);

}  // namespace

void Outbox::add_success(const std::shared_ptr<Peer>& peer, std::string_view key,
                         std::chrono::microseconds delay, Clock::time_point now) {
  const bool may_wait = delay.count() > 0;
  next_due_ = empty() ? now + delay : std::min<Clock::time_point>(next_due_, now + delay);
  auto it = std::find_if(notices_.begin(), notices_.end(), [&](const Notice& known) {
    return may_wait && known.open && known.peer == peer;
  });
  if (it == notices_.end()) it = notices_.insert(it, Notice{peer, {}, {}, may_wait});
  it->keys.emplace_back(key);
  if (!may_wait || it->keys.size() >= kMostKeys) send_all(now);
}

void Outbox::add_failure(const std::shared_ptr<Peer>& peer, std::string_view key,
                         std::string_view reason, Clock::time_point now) {
  Notice notice{peer, {std::string(key)}, std::string(reason)};
  const bool waits = !empty();
  if (!send(notice)) {
    next_due_ =
        waits ? std::min<Clock::time_point>(next_due_, now + kRefusalPause) : now + kRefusalPause;
    notices_.push_back(std::move(notice));
  }
  const auto needed = peer->reached ? kSendTime : kFirstSendTime;
  poll_until_ = std::max<Clock::time_point>(poll_until_, now + needed);
}

void Outbox::send_due(Clock::time_point now) {
  if (!empty() && now >= next_due_) send_all(now);
}

void Outbox::flush(Clock::time_point now) {
  send_all(now);
  poll_until_ = std::max<Clock::time_point>(poll_until_, last_sent_ + kSendTime);
}

void Outbox::send_all(Clock::time_point now) {
  if (empty()) return;
  std::erase_if(notices_, [&](Notice& notice) { return send(notice); });
  next_due_ = now + kRefusalPause;
  last_sent_ = now;
}

bool Outbox::send(Notice& notice) {
  const Peer& peer = *notice.peer;
  const bool by_notice_endpoint = notice.refusals == 0 && PeerTable::has_notice_endpoint(peer);
  try {
    agent_.notify(by_notice_endpoint ? peer.notice_endpoint->alias : peer.alias,
                  notice.failure.empty() ? success_notice(notice.keys)
                                         : failure_notice(notice.keys.front(), notice.failure));
    counters_.notifications_sent.add(1);
    return true;
  } catch (const AgentError&) {
    counters_.notifications_refused.add(1);
    // The endpoint may be what is wrong: the next operation has the peer loaded afresh.
    peers_.failed(peer);
    // In the end the peer's own deadline ends its side.
    return ++notice.refusals == kMostRefusals;
  }
}

NIXL_CONNECT_NAMESPACE_END
