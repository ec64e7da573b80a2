#pragma once

#include <chrono>
#include <cstddef>

#include "agent/peer_id.h"
#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// The peers that could not be loaded, and when they may be tried again.
///
/// Each try that fails costs descriptors which NIXL keeps until the agent goes (seen in NIXL
/// 1.5.1). So a peer is left alone for a while, twice as long each time; and all of them together
/// have so many tries: a few at once, and then one now and then, which comes half as often each
/// time. When one of them can be loaded again, whatever kept them all away may be over: all tries
/// are there again.
///
/// Thread safety: for whoever has the agent lock.
class FailedPeers {
 public:
  using Clock = std::chrono::steady_clock;

  /// Remembers up to so many that are left alone at the moment, and others for as long as there is
  /// room.
  explicit FailedPeers(std::size_t max_peers) : max_peers_(max_peers) {}

  /// Whether the peer may be loaded now. Takes one of the tries when it has failed before.
  bool may_try(const PeerIdView& id, Clock::time_point now);
  void failed(const PeerIdView& id, Clock::time_point now);
  void succeeded(const PeerIdView& id);

 private:
  struct Failures {
    Clock::duration pause{};
    Clock::time_point until{};
  };
  static constexpr int kTriesAtOnce = 8;
  static constexpr std::chrono::milliseconds kFirstRefill{250};

  const std::size_t max_peers_;
  ByPeer<Failures> failures_;
  int tries_ = kTriesAtOnce;
  Clock::duration refill_ = kFirstRefill;
  Clock::time_point refilled_{};
};

NIXL_CONNECT_NAMESPACE_END
