#pragma once

#include <atomic>
#include <ctime>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "engine/engine_port.h"
#include "engine/engine_state.h"
#include "engine/fork_guard.h"
#include "engine/manual_registration.h"
#include "engine/operation.h"
#include "engine/startup.h"
#include "nixl_connect/connector.h"
#include "system/heap_reserve.h"

NIXL_CONNECT_NAMESPACE_BEGIN

class EngineLoop;

/// The thread that drives NIXL, and the way to it for everybody else.
///
/// NIXL is called by one thread at a time: whoever has the agent lock. Mostly that is the engine's
/// thread. A caller whose operation is small, quick and on host memory takes the lock itself when
/// it is free, and so saves itself two switches between threads; it never waits for it.
///
/// Lifetime: the thread keeps its engine, so that callers may drop theirs at any time and on any
/// thread, the engine's own included. In a forked child, which has no such thread, the engine
/// stays.
///
/// Thread safety: every member may be called from any thread.
class Engine final : public EnginePort, public std::enable_shared_from_this<Engine> {
 public:
  /// The connector's name is for messages.
  Engine(ConnectorOptions options, std::shared_ptr<const std::string> connector);
  ~Engine() override;

  const ConnectorOptions& options() const noexcept { return state_.options; }
  const ForkGuard& fork_guard() const noexcept { return fork_guard_; }
  Startup& startup() noexcept { return startup_; }
  /// Starts the thread, once. Throws `Error`: `closed` or `forked`.
  void start();
  void wait_started(const Interrupt& interrupt);

  /// Here and now if that is quick and the agent lock is free.
  void submit(OperationPtr operation) override;
  bool submit_if_open(OperationPtr operation) override;
  void part_ended(OperationPtr whole, std::optional<Failure> failure) override;
  /// Has the thread run the task, after what has been submitted before. Returns false when the
  /// engine is closed.
  bool run(Task task);
  /// Has the thread deregister the region, after what has been submitted before, and release it
  /// then.
  void deregister(const std::shared_ptr<ManualRegistration>& region, MemoryRegistry::Lease lease);

  /// Whether this is the thread of an engine, which must not wait for itself.
  static bool is_engine_thread() noexcept;

  /// As `Connector::progress`.
  bool progress();
  /// Polls on the calling thread until the milestone is reached, or `until` has passed, or polls
  /// are not quick any more. The engine's thread rests meanwhile. Does nothing when other waiters
  /// poll.
  void poll_until(const Progress& progress, Milestone milestone, Clock::time_point until);

  /// How long the notice of a completion may wait for others.
  std::chrono::microseconds notice_delay() const noexcept {
    return state_.notice_delay.load(std::memory_order_relaxed);
  }
  /// Adds what it has done and holds. Waits for the agent lock, but not long.
  void add_stats(ConnectorStats& stats);

  /// Begins to close; nothing is accepted any more.
  void stop() noexcept;
  /// As `Connector::close`. On the thread of an engine, this one or another, it only begins to.
  void close(const Interrupt& interrupt) noexcept;

 private:
  static constexpr clockid_t kNoClock = -1;

  bool submit_here(const OperationPtr& operation);
  /// Returns false when polls are not quick, or the thread has something to do first.
  bool poll_once();
  bool is_driven_externally();
  /// There may be something to poll for, by that time, of which the thread does not know.
  void wake(Clock::time_point needed = Clock::time_point::min()) noexcept;

  void launch();
  void thread_main() noexcept;
  /// Makes the agent, and runs its loop to the end. Returns why that has failed, if it has.
  std::optional<Failure> run_loop();
  /// Fails whatever is asked of it until it is closed, or to be started again. Returns whether it
  /// is closed.
  bool refuse_all(const Failure& failure);
  void refuse(Command& command, const Failure& failure) noexcept;

  EngineState state_;
  ForkGuard fork_guard_;
  Startup startup_;
  /// While a start may load UCX.
  std::unique_ptr<HeapReserve> heap_reserve_;
  /// While the thread runs it; for whoever has the agent lock.
  EngineLoop* loop_ = nullptr;

  /// The thread's, while it runs; and what it has used, when it does not any more.
  std::atomic<clockid_t> cpu_clock_{kNoClock};
  std::atomic<std::chrono::nanoseconds> cpu_used_{std::chrono::nanoseconds::zero()};

  /// For whoever joins the thread, which has nothing left to do when it is at its end.
  std::mutex join_mutex_;
  SteadyCondition at_end_;
  bool is_at_end_ = false;
  std::thread thread_;
};

NIXL_CONNECT_NAMESPACE_END
