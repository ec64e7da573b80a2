#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <variant>
#include <vector>

#include "engine/manual_registration.h"
#include "engine/wait.h"
#include "nixl_connect/error.h"
#include "system/steady_condition.h"

NIXL_CONNECT_NAMESPACE_BEGIN

struct Operation;
class EngineLoop;

/// To be taken as far as it comes.
using Submission = std::shared_ptr<Operation>;
/// A part of this engine's operation has ended.
struct PartEnded {
  std::shared_ptr<Operation> whole;
  std::optional<Failure> failure;
};
/// To be deregistered.
struct Deregistration {
  std::shared_ptr<ManualRegistration> region;
  MemoryRegistry::Lease lease;
};
/// Anything else that needs the agent.
using Task = std::function<void(EngineLoop&)>;
using Command = std::variant<Submission, PartEnded, Deregistration, Task>;

/// Commands to the engine's thread, and its sleep.
///
/// Thread safety: `push`, `empty`, `wake` and `close` for any thread; `take`, `put_back` and
/// `announce` for whoever has the agent lock; `wait` and `end` for the engine's thread.
class Mailbox {
 public:
  /// Returns false, and takes nothing, when the mailbox is closed. A deregistration is taken until
  /// the thread has ended.
  bool push(Command command);
  /// Whether all commands have been taken.
  bool empty() const noexcept { return !has_commands_.load(std::memory_order_acquire); }
  /// Ends a sleep that has been announced or has begun, if it would last beyond that time. Harmless
  /// otherwise: no wake-up is kept for later.
  void wake(Clock::time_point needed = Clock::time_point::min()) noexcept;
  /// No command is taken from now on. Ends the wait.
  void close() noexcept;

  /// Appends all commands, in their order.
  void take(std::vector<Command>& commands);
  /// The same if `may_be_taken(command)` of each, which must not throw; otherwise returns false.
  template <typename MayBeTaken>
  bool take_if(std::vector<Command>& commands, MayBeTaken may_be_taken) {
    const std::lock_guard lock(mutex_);
    if (!std::all_of(commands_.begin(), commands_.end(), may_be_taken)) return false;
    take_all(commands);
    return true;
  }
  /// Has them taken again, before all others.
  void put_back(std::vector<Command> commands);
  /// The thread is going to wait in this way. It says so before it gives up the agent lock, and so
  /// whoever has the lock next knows whether it must be woken.
  void announce(const Wait& wait) noexcept {
    until_.store(wait.until, std::memory_order_relaxed);
    mode_.store(wait.mode, std::memory_order_release);
  }
  /// Waits until then, or until something ends it. Returns whether the mailbox is closed.
  bool wait(const Wait& wait);
  /// Nothing at all is taken from now on. Returns what nobody has taken.
  std::vector<Command> end();

  /// How often the thread has waited.
  std::uint64_t waits() const noexcept { return waits_.load(std::memory_order_relaxed); }

 private:
  void take_all(std::vector<Command>& commands);

  enum class State : std::uint8_t { open, closed, ended };

  std::mutex mutex_;
  SteadyCondition ended_wait_;
  std::vector<Command> commands_;
  std::atomic<bool> has_commands_{false};
  /// Cleared with the mutex held.
  std::atomic<Wait::Mode> mode_{Wait::Mode::none};
  /// Until when the thread waits, if nothing ends that.
  std::atomic<Clock::time_point> until_{Clock::time_point::max()};
  bool woken_ = false;
  State state_ = State::open;
  /// Whether the thread knows that the mailbox is closed.
  bool close_seen_ = false;
  std::atomic<std::uint64_t> waits_{0};
};

NIXL_CONNECT_NAMESPACE_END
