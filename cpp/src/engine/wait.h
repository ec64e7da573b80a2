#pragma once

#include "engine/clock.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// How the engine's thread spends the time until its next poll, and what ends it before. Closing
/// ends all of them.
struct Wait {
  enum class Mode : std::uint8_t {
    none,     ///< It polls again at once.
    rest,     ///< Nothing ends it: what comes meanwhile is taken at the next poll, all at once.
    standby,  ///< Commands end it: callers poll while they come and go.
    sleep,    ///< Commands, and whoever wakes it.
  };

  Clock::time_point until;
  Mode mode = Mode::sleep;
};

NIXL_CONNECT_NAMESPACE_END
