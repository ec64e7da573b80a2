#pragma once

#include <chrono>

#include "nixl_connect/connector.h"
#include "nixl_connect/error.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// How often a call that blocks asks whether it is to end.
inline constexpr std::chrono::milliseconds kInterruptCheck{50};

/// Throws `Error(cancelled)` when it is.
inline void throw_if(const Interrupt& interrupt) {
  if (interrupt && interrupt()) throw Error(ErrorCode::cancelled, "the call was interrupted");
}

NIXL_CONNECT_NAMESPACE_END
