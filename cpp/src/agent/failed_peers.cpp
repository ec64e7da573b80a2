#include "agent/failed_peers.h"

#include <algorithm>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// How long a peer is left alone at first, and at most.
constexpr std::chrono::milliseconds kFirstPause{20};
constexpr std::chrono::seconds kLongestPause{2};
/// How long until there is one try more, at most.
constexpr std::chrono::seconds kLongestRefill{30};

template <typename Longest>
FailedPeers::Clock::duration twice(FailedPeers::Clock::duration time, Longest longest) {
  return std::min<FailedPeers::Clock::duration>(2 * time, longest);
}

}  // namespace

bool FailedPeers::may_try(const PeerIdView& id, Clock::time_point now) {
  const auto it = failures_.find(id);
  if (it == failures_.end()) return true;
  if (now < it->second.until) return false;
  if (tries_ == 0) {
    if (now < refilled_ + refill_) return false;
    refill_ = twice(refill_, kLongestRefill);
    ++tries_;
  }
  --tries_;
  refilled_ = now;
  return true;
}

void FailedPeers::failed(const PeerIdView& id, Clock::time_point now) {
  if (failures_.size() >= max_peers_) {
    std::erase_if(failures_, [&](const auto& entry) { return entry.second.until < now; });
  }
  const auto [it, first] = failures_.try_emplace(id.copy());
  Failures& failures = it->second;
  failures.pause = first ? Clock::duration(kFirstPause) : twice(failures.pause, kLongestPause);
  failures.until = now + failures.pause;
}

void FailedPeers::succeeded(const PeerIdView& id) {
  const auto it = failures_.find(id);
  if (it == failures_.end()) return;
  failures_.erase(it);
  tries_ = kTriesAtOnce;
  refill_ = kFirstRefill;
}

NIXL_CONNECT_NAMESPACE_END
