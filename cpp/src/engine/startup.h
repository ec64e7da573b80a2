#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/fork_guard.h"
#include "nixl_connect/completion.h"
#include "nixl_connect/connector.h"
#include "nixl_connect/error.h"
#include "system/steady_condition.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// An engine's start: in one process, and again only when it has failed. Whoever waits for it is
/// notified.
///
/// Thread safety: every member may be called from any thread.
class Startup {
 public:
  explicit Startup(ForkGuard& fork_guard) : fork_guard_(fork_guard) {}

  /// Calls `launch` the first time, and `again` when a start has failed since. Throws `Error`:
  /// `closed` after `close`; `forked` where UCX cannot be used because a parent process has; or
  /// what `launch` throws, and it may be tried again then.
  void begin(const std::function<void()>& launch, const std::function<void()>& again);
  bool begun() const noexcept { return state_.load(std::memory_order_acquire) != State::idle; }
  bool starting() const noexcept { return state_.load() == State::starting; }
  bool started() const noexcept { return state_ == State::started && !closed(); }
  /// The start has succeeded; or has failed, and why.
  void report_started() { report(State::started, std::nullopt); }
  void report_failed(Failure failure) { report(State::failed, std::move(failure)); }
  void found_library(std::string path);
  /// Nothing can be begun from now on. In a forked child no lock is taken for that.
  void close() noexcept;
  bool closed() const noexcept { return closed_.load(std::memory_order_acquire); }

  /// As those of `Connector`.
  bool notify(std::shared_ptr<CompletionQueue> queue, std::uint64_t token);
  bool check() const;
  void wait(const Interrupt& interrupt);
  std::string nixl_library() const;

 private:
  enum class State : std::uint8_t { idle, starting, started, failed };

  void report(State outcome, std::optional<Failure> failure);
  bool is_over() const noexcept { return state_ == State::started || state_ == State::failed; }

  ForkGuard& fork_guard_;
  std::atomic<bool> closed_{false};
  std::atomic<State> state_{State::idle};

  mutable std::mutex mutex_;
  SteadyCondition over_;
  std::optional<Failure> failure_;
  std::string nixl_library_;
  std::vector<std::pair<std::shared_ptr<CompletionQueue>, std::uint64_t>> watchers_;
};

NIXL_CONNECT_NAMESPACE_END
