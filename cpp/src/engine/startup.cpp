#include "engine/startup.h"

#include "system/process.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// The process that started UCX, whose threads and descriptors a forked child has no use of:
/// transfers that are begun there with an agent of the child's own never end (seen with UCX
/// 1.23).
std::atomic<pid_t> ucx_process{0};

}  // namespace

bool Startup::in_forked_child() const noexcept {
  const pid_t process = process_.load(std::memory_order_relaxed);
  return process != 0 && process != this_process();
}

void Startup::check_process() const {
  if (in_forked_child()) {
    throw Error(ErrorCode::forked,
                "connector '" + *connector_ +
                    "': was started in the parent of this forked process, and works only there; "
                    "fork before the first use of a connector, or spawn instead");
  }
}

void Startup::begin(const std::function<void()>& launch) {
  if (begun() && !closed()) return;
  const std::lock_guard lock(mutex_);
  if (closed()) throw Error(ErrorCode::closed, "the connector is closed");
  if (state_ != State::idle) return;
  const pid_t here = this_process();
  pid_t starter = 0;
  if (!ucx_process.compare_exchange_strong(starter, here) && starter != here) {
    throw Error(ErrorCode::forked,
                "connector '" + *connector_ +
                    "': cannot start, because this process was forked from one in which a "
                    "connector had been used, and UCX does not survive that; fork before the "
                    "first use of a connector, or spawn instead");
  }
  process_.store(here, std::memory_order_relaxed);
  try {
    launch();
  } catch (...) {
    process_.store(0, std::memory_order_relaxed);
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
  if (in_forked_child()) {
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
  check_process();
  if (state_ == State::started && !closed()) return true;
  const std::lock_guard lock(mutex_);
  if (closed()) throw Error(ErrorCode::closed, "the connector is closed");
  if (failure_) throw Error(failure_->code, failure_->message);
  return state_ == State::started;
}

void Startup::wait() {
  {
    std::unique_lock lock(mutex_);
    over_.wait(lock, [&] { return is_over(); });
  }
  check();
}

std::string Startup::nixl_library() const {
  if (in_forked_child()) return {};
  const std::lock_guard lock(mutex_);
  return nixl_library_;
}

NIXL_CONNECT_NAMESPACE_END
