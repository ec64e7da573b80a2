#pragma once

#include <memory>
#include <utility>

#include "engine/agent_lock.h"
#include "engine/flight.h"
#include "engine/progress.h"
#include "engine/request.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// One operation, in its three parts: what is to be done, for all; how far it is, for callers; and
/// what the engine has of it, for the engine.
///
/// Lifetime: the caller's `Connection` and, until the memory is released, the engine. It holds no
/// engine.
struct Operation final : Releasable {
  explicit Operation(Request what) : request(std::move(what)) {}

  /// Ends it as failed, for those who wait, unless it has ended before. What it holds it keeps.
  void fail(Failure failure) {
    failure.message += " (after " + in_seconds(Clock::now() - request.began) + ")";
    progress.finish(OperationStatus::errored, std::move(failure));
  }

  /// Nobody uses the memory any more: releases it, and whoever waits for that is notified. Without
  /// the agent lock: owners of memory may call back.
  void release() noexcept override {
    // Bytes may have been under way, if nobody has said otherwise before.
    flight.claim.reset();
    flight.readers.place.reset();
    flight.local.clear();
    flight.fences.clear();
    flight.parts.clear();
    progress.release();
    if (const auto whole = std::exchange(flight.whole, {}); whole.engine != nullptr) {
      whole.engine->part_ended(whole.operation, progress.failure());
    }
  }

  bool in_use() noexcept override {
    return flight.readers.place != nullptr && flight.readers.place->slot().review(true).live > 0;
  }

  const Request request;
  Progress progress;
  Flight flight;
};

using OperationPtr = std::shared_ptr<Operation>;

NIXL_CONNECT_NAMESPACE_END
