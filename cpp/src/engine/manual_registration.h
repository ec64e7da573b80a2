#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "agent/memory_registry.h"
#include "engine/agent_lock.h"
#include "nixl_connect/completion.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// A region that somebody has registered by hand, with one engine or several.
///
/// Thread safety: `release` for any thread. The rest is set before that.
struct ManualRegistration final : Releasable {
  explicit ManualRegistration(std::shared_ptr<const void> keeps_alive)
      : owner(std::move(keeps_alive)) {}

  /// One of the engines has deregistered it. After the last one the owner goes, and the token is
  /// pushed.
  void release() noexcept override {
    if (left.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    owner.reset();
    if (queue != nullptr) queue->push(token);
  }

  std::shared_ptr<const void> owner;
  /// How many engines have yet to deregister it.
  std::atomic<std::size_t> left{0};
  std::shared_ptr<CompletionQueue> queue;
  std::uint64_t token = 0;
};

NIXL_CONNECT_NAMESPACE_END
