#pragma once

#include <atomic>
#include <chrono>
#include <utility>

#include "engine/agent_lock.h"
#include "engine/counters.h"
#include "engine/mailbox.h"
#include "nixl_connect/connector.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// What an engine's thread and its callers share.
///
/// Thread safety: as that of each part.
struct EngineState {
  explicit EngineState(ConnectorOptions with) : options(std::move(with)) {}

  const ConnectorOptions options;
  /// Written by whoever has the agent lock.
  EngineCounters counters;
  Mailbox mailbox;
  AgentLock agent_lock;
  /// How long the news of a completion may wait for that of others; for new notification keys.
  std::atomic<std::chrono::microseconds> notice_delay{std::chrono::microseconds::zero()};
  /// Threads that poll while they wait for their operations.
  std::atomic<int> polling_waiters{0};
};

NIXL_CONNECT_NAMESPACE_END
