#pragma once

#include <algorithm>
#include <chrono>

#include "engine/clock.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// For how long a peer is waited for that was sent a message: it may be busy with others. When its
/// endpoint fails it may have ended, and has less time to answer by a fresh one.
class Silence {
 public:
  explicit Silence(Clock::time_point now) : until_(now + std::chrono::seconds(30)) {}

  void endpoint_failed(Clock::time_point now) {
    until_ = std::min<Clock::time_point>(until_, now + std::chrono::seconds(5));
  }
  bool is_too_long(Clock::time_point now) const noexcept { return now >= until_; }

 private:
  Clock::time_point until_;
};

NIXL_CONNECT_NAMESPACE_END
