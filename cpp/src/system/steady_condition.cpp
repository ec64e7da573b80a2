#include "system/steady_condition.h"

#include <cerrno>

NIXL_CONNECT_NAMESPACE_BEGIN

SteadyCondition::SteadyCondition() noexcept {
  ::pthread_condattr_t attributes;
  ::pthread_condattr_init(&attributes);
  ::pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  ::pthread_cond_init(&condition_, &attributes);
  ::pthread_condattr_destroy(&attributes);
}

SteadyCondition::~SteadyCondition() { ::pthread_cond_destroy(&condition_); }

bool SteadyCondition::wait_once(std::unique_lock<std::mutex>& lock,
                                Clock::time_point until) noexcept {
  const auto time = until.time_since_epoch();
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time);
  const ::timespec at{static_cast<std::time_t>(seconds.count()),
                      static_cast<long>(std::chrono::nanoseconds(time - seconds).count())};
  return ::pthread_cond_timedwait(&condition_, lock.mutex()->native_handle(), &at) != ETIMEDOUT;
}

NIXL_CONNECT_NAMESPACE_END
