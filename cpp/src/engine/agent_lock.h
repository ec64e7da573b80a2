#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "cuda/cuda_memory.h"
#include "wire/region.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// What is released, or destroyed, only when the agent lock has been given up: owners of memory may
/// call back.
class Releasable {
 public:
  Releasable() = default;
  Releasable(const Releasable&) = delete;
  Releasable& operator=(const Releasable&) = delete;
  virtual ~Releasable() = default;
  virtual void release() noexcept = 0;
  /// Whether another process may still be at its memory, without NIXL's help on this side.
  virtual bool in_use() noexcept { return false; }
};

/// The right to call NIXL, which one thread has at a time. Mostly that is the engine's thread; a
/// caller takes it when it is free, and never waits for it.
///
/// A thread that has the lock of one engine gets neither that of another nor the same again.
///
/// Thread safety: `Guard` and `held_here` for any thread; the rest for whoever has the lock.
class AgentLock {
 public:
  /// Has the lock, if it got it, and a context of CUDA's if the engine has to do with GPUs. Gives
  /// up the lock, then releases what was left for then.
  class Guard {
   public:
    /// Waits.
    explicit Guard(AgentLock& lock);
    /// Tries for as long as one or two empty polls take.
    Guard(AgentLock& lock, std::try_to_lock_t);
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    ~Guard();
    explicit operator bool() const noexcept { return held_.owns_lock(); }

   private:
    friend class AgentLock;
    void enter_context();

    AgentLock& lock_;
    std::unique_lock<std::mutex> held_;
    std::optional<CudaContext> context_;
  };

  /// Whether this thread has the lock of some engine.
  static bool held_here() noexcept;

  /// Has it released when the lock has been given up.
  void release_later(std::shared_ptr<Releasable> object) {
    to_release_.push_back(std::move(object));
  }
  /// Has all of them released then, and empties the list.
  void release_later(std::vector<std::shared_ptr<Releasable>>& objects);
  /// What NIXL needs for these regions if this thread has not got it; null if it has, or none are
  /// of a GPU. The context of the first region on a GPU is from now on that of all guards: it is
  /// enough to deregister memory, and to ask whether some has moved.
  cuda::Context* context_to_enter(const std::vector<Region>& regions);

 private:
  std::mutex mutex_;
  Guard* current_ = nullptr;
  cuda::Context* context_ = nullptr;
  std::vector<std::shared_ptr<Releasable>> to_release_;
};

NIXL_CONNECT_NAMESPACE_END
