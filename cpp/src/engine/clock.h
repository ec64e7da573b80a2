#pragma once

#include <chrono>
#include <cstdio>
#include <string>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

using Clock = std::chrono::steady_clock;

/// Longer than anybody waits, and short enough to be added to a time.
inline constexpr std::chrono::nanoseconds kLongestWait = std::chrono::hours(24 * 365 * 30);

/// "0.25 s", for messages.
inline std::string in_seconds(std::chrono::nanoseconds duration) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g s", std::chrono::duration<double>(duration).count());
  return text;
}

NIXL_CONNECT_NAMESPACE_END
