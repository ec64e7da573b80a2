#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// What forking means for an engine: it works in the process that started it only, because UCX does
/// not survive a fork. A forked child has the engine's memory and none of its threads; there every
/// lock may be held for ever, so nothing is asked of the engine but this.
///
/// Thread safety: every member may be called from any thread, also after a `fork`.
class ForkGuard {
 public:
  /// The connector's name is for messages.
  explicit ForkGuard(std::shared_ptr<const std::string> connector)
      : connector_(std::move(connector)) {}

  /// The engine is about to start here. Throws `Error(forked)` where that cannot be: in a child of
  /// a process that has started one.
  void claim();
  /// UCX has been started, which somebody had loaded before. Throws `Error(forked)` where its
  /// thread is missing in a forked process: UCX takes it for running, because it was used in the
  /// parent, by whomever.
  void check_ucx_thread() const;
  /// It could not start after all.
  void give_up() noexcept { process_.store(0, std::memory_order_relaxed); }

  /// Whether this is a child of the process that started the engine.
  bool is_child() const noexcept;
  /// Throws `Error(forked)` there.
  void check() const;

 private:
  const std::shared_ptr<const std::string> connector_;
  std::atomic<pid_t> process_{0};
};

NIXL_CONNECT_NAMESPACE_END
