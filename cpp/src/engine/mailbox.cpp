#include "engine/mailbox.h"

#include <iterator>
#include <utility>

NIXL_CONNECT_NAMESPACE_BEGIN

bool Mailbox::push(Command command) {
  const std::lock_guard lock(mutex_);
  const bool while_closed = std::holds_alternative<Deregistration>(command);
  if (state_ > (while_closed ? State::closed : State::open)) return false;
  commands_.push_back(std::move(command));
  has_commands_.store(true, std::memory_order_release);
  if (mode_.load(std::memory_order_relaxed) >= Wait::Mode::standby) ended_wait_.notify_one();
  return true;
}

void Mailbox::wake(Clock::time_point needed) noexcept {
  if (mode_.load(std::memory_order_acquire) != Wait::Mode::sleep) return;
  if (until_.load(std::memory_order_relaxed) <= needed) return;
  const std::lock_guard lock(mutex_);
  if (mode_.load(std::memory_order_relaxed) != Wait::Mode::sleep) return;
  woken_ = true;
  ended_wait_.notify_one();
}

void Mailbox::close() noexcept {
  const std::lock_guard lock(mutex_);
  if (state_ == State::open) state_ = State::closed;
  ended_wait_.notify_one();
}

void Mailbox::take(std::vector<Command>& commands) {
  if (empty()) return;
  const std::lock_guard lock(mutex_);
  take_all(commands);
}

void Mailbox::take_all(std::vector<Command>& commands) {
  if (commands.empty()) {
    commands.swap(commands_);
  } else {
    std::move(commands_.begin(), commands_.end(), std::back_inserter(commands));
    commands_.clear();
  }
  has_commands_.store(false, std::memory_order_release);
}

void Mailbox::put_back(std::vector<Command> commands) {
  const std::lock_guard lock(mutex_);
  commands_.insert(commands_.begin(), std::make_move_iterator(commands.begin()),
                   std::make_move_iterator(commands.end()));
  has_commands_.store(!commands_.empty(), std::memory_order_release);
}

bool Mailbox::wait(const Wait& wait) {
  std::unique_lock lock(mutex_);
  announce(wait);
  const auto is_over = [&] {
    return (state_ == State::closed && !close_seen_) ||
           (wait.mode >= Wait::Mode::standby && !commands_.empty()) || woken_;
  };
  if (wait.mode != Wait::Mode::none && !is_over()) {
    waits_.store(waits_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    if (wait.until == Clock::time_point::max()) {
      ended_wait_.wait(lock, is_over);
    } else {
      ended_wait_.wait_until(lock, wait.until, is_over);
    }
  }
  mode_.store(Wait::Mode::none, std::memory_order_release);
  woken_ = false;
  close_seen_ = state_ == State::closed;
  return close_seen_;
}

std::vector<Command> Mailbox::end() {
  const std::lock_guard lock(mutex_);
  state_ = State::ended;
  return std::exchange(commands_, {});
}

NIXL_CONNECT_NAMESPACE_END
