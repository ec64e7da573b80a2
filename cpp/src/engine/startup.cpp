#include "engine/startup.h"

#include "engine/interrupt.h"

NIXL_CONNECT_NAMESPACE_BEGIN

void Startup::begin(const std::function<void()>& launch, const std::function<void()>& again) {
  if (begun() && state_ != State::failed && !closed()) return;
  const std::lock_guard lock(mutex_);
  if (closed()) throw Error(ErrorCode::closed, "the connector is closed");
  if (state_ == State::failed) {
    failure_.reset();
    state_ = State::starting;
    again();
    return;
  }
  if (state_ != State::idle) return;
  fork_guard_.claim();
  try {
    launch();
  } catch (...) {
    fork_guard_.give_up();
    throw;
  }
  state_ = State::starting;
}

void Startup::found_library(std::string path) {
  const std::lock_guard lock(mutex_);
  nixl_library_ = std::move(path);
}

void Startup::report(State outcome, std::optional<Failure> failure) {
  decltype(watchers_) watchers;
  {
    const std::lock_guard lock(mutex_);
    state_ = outcome;
    failure_ = std::move(failure);
    watchers.swap(watchers_);
  }
  over_.notify_all();
  for (const auto& [queue, token] : watchers) queue->push(token);
}

void Startup::close() noexcept {
  if (fork_guard_.is_child()) {
    closed_.store(true, std::memory_order_release);
    return;
  }
  // With the lock held: a start that has begun is over for whoever closes.
  const std::lock_guard lock(mutex_);
  closed_.store(true, std::memory_order_release);
}

bool Startup::notify(std::shared_ptr<CompletionQueue> queue, std::uint64_t token) {
  const std::lock_guard lock(mutex_);
  if (is_over()) return false;
  watchers_.emplace_back(std::move(queue), token);
  return true;
}

bool Startup::check() const {
  fork_guard_.check();
  if (state_ == State::started && !closed()) return true;
  const std::lock_guard lock(mutex_);
  if (closed()) throw Error(ErrorCode::closed, "the connector is closed");
  if (failure_) throw Error(failure_->code, failure_->message);
  return state_ == State::started;
}

void Startup::wait(const Interrupt& interrupt) {
  // Another thread may have it tried again before this one sees that it has failed.
  while (!check()) {
    std::unique_lock lock(mutex_);
    if (over_.wait_for(lock, kInterruptCheck, [&] { return is_over(); })) continue;
    lock.unlock();
    throw_if(interrupt);
  }
}

std::string Startup::nixl_library() const {
  if (fork_guard_.is_child()) return {};
  const std::lock_guard lock(mutex_);
  return nixl_library_;
}

NIXL_CONNECT_NAMESPACE_END
