#pragma once

#include <optional>
#include <utility>

#include "engine/operation.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// How an operation has come out, as the part of the engine that found it out says.
struct Outcome {
  /// Every byte is where it should be.
  bool completed = false;
  /// Why not. Without one the operation had ended before: it was cancelled, or its deadline passed.
  std::optional<Failure> failure;
  /// Whether the peer waits to hear that nothing comes.
  bool notify_peer = false;

  static Outcome complete() { return {true, std::nullopt, false}; }
  static Outcome failed(Failure why, bool peer_waits = false) {
    return {false, std::move(why), peer_waits};
  }
};

/// What a part of the engine returns to the loop, which settles it.
struct Event {
  OperationPtr operation;
  Outcome outcome;
};

NIXL_CONNECT_NAMESPACE_END
