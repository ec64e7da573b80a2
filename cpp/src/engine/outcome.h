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
  /// Whether the peer waits for a notice, because nothing comes.
  bool notify_peer = false;
  /// Whether the transfer has failed, and with it the peer as it is loaded; and whether that is
  /// this operation's own doing.
  bool peer_broken = false;
  bool at_fault = false;

  static Outcome complete() { return {true, std::nullopt}; }
  /// Something on this side, or the peer's own failure.
  static Outcome failed(Failure why) { return {false, std::move(why)}; }
  /// Its transfer is not posted, and never will be.
  static Outcome not_posted(Failure why) { return {false, std::move(why), true}; }
  /// The same of an operation that had ended before.
  static Outcome not_posted() { return {false, std::nullopt, true}; }
  static Outcome broken(Failure why, bool at_fault = false) {
    return {false, std::move(why), true, true, at_fault};
  }
};

/// What a part of the engine returns to the loop, which settles it.
struct Event {
  OperationPtr operation;
  Outcome outcome;
};

NIXL_CONNECT_NAMESPACE_END
