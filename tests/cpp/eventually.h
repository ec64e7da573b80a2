#pragma once

#include <chrono>
#include <functional>
#include <thread>

namespace nixl_connect::testing {

/// Whether it comes true within half a minute: by emulation NIXL takes some of that to start.
inline bool eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 30'000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

}  // namespace nixl_connect::testing
