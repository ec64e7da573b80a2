#pragma once

#include <pthread.h>

#include <chrono>
#include <mutex>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// A condition variable whose waits end by the steady clock, also with a glibc before 2.30, where
/// `std::condition_variable` waits by the system's, which people and networks set.
class SteadyCondition {
 public:
  using Clock = std::chrono::steady_clock;

  SteadyCondition() noexcept;
  SteadyCondition(const SteadyCondition&) = delete;
  SteadyCondition& operator=(const SteadyCondition&) = delete;
  ~SteadyCondition();

  void notify_one() noexcept { ::pthread_cond_signal(&condition_); }
  void notify_all() noexcept { ::pthread_cond_broadcast(&condition_); }

  template <typename Predicate>
  void wait(std::unique_lock<std::mutex>& lock, Predicate is_over) {
    while (!is_over()) ::pthread_cond_wait(&condition_, lock.mutex()->native_handle());
  }

  /// Returns whether it is over; false when the time has come before.
  template <typename Predicate>
  bool wait_until(std::unique_lock<std::mutex>& lock, Clock::time_point until, Predicate is_over) {
    while (!is_over()) {
      if (!wait_once(lock, until)) return is_over();
    }
    return true;
  }

  template <typename Predicate>
  bool wait_for(std::unique_lock<std::mutex>& lock, std::chrono::nanoseconds time,
                Predicate is_over) {
    return wait_until(lock, Clock::now() + time, is_over);
  }

 private:
  /// False when the time has come.
  bool wait_once(std::unique_lock<std::mutex>& lock, Clock::time_point until) noexcept;

  ::pthread_cond_t condition_;
};

NIXL_CONNECT_NAMESPACE_END
