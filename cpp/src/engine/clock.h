#pragma once

#include <charconv>
#include <chrono>
#include <string>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

using Clock = std::chrono::steady_clock;

/// Longer than anybody waits, and short enough to be added to a time.
inline constexpr std::chrono::nanoseconds kLongestWait = std::chrono::hours(24 * 365 * 30);

/// "0.25 s", for messages.
inline std::string in_seconds(std::chrono::nanoseconds duration) {
  char text[32];
  const double seconds = std::chrono::duration<double>(duration).count();
  const bool is_short = seconds < 0.1;
  // Whatever the locale's decimal sign.
  const auto end = std::to_chars(text, text + sizeof text, is_short ? seconds * 1e3 : seconds,
                                 std::chars_format::general, 3);
  return std::string(text, end.ptr) + (is_short ? " ms" : " s");
}

NIXL_CONNECT_NAMESPACE_END
