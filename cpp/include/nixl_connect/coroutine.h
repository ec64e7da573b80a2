#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "nixl_connect/api.h"
#include "nixl_connect/completion.h"
#include "nixl_connect/connection.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Where coroutines wait for operations, with `co_await operation.completion(queue)`, until a poll
/// loop resumes them.
///
/// Lifetime: a coroutine that waits may be destroyed, and is then forgotten. The queue may go
/// first: what still waits is never resumed, and remains for its owner to destroy. A coroutine may
/// destroy the queue that resumes it.
///
/// Thread safety: distinct objects are independent. One object, and the coroutines that wait with
/// it, belong to one thread at a time; completions reach it from any.
class CoroutineQueue {
 public:
  /// Throws `Error(backend)` when the process is out of descriptors.
  CoroutineQueue() : waiting_(std::make_shared<Waiting>()) {}
  CoroutineQueue(const CoroutineQueue&) = delete;
  CoroutineQueue& operator=(const CoroutineQueue&) = delete;
  /// Resumes nobody.
  ~CoroutineQueue() { waiting_->coroutines.clear(); }

  /// Poll this for reading, then call `resume`. Owned by the queue.
  int fd() const noexcept { return waiting_->completions->fd(); }

  /// Resumes, on the calling thread, each coroutine whose milestone has been passed, in that order,
  /// and returns how many. Never blocks by itself. An exception that leaves a coroutine leaves this
  /// call too; the next call then resumes the others, and `fd` stays readable for them. With clang,
  /// let no exception leave a coroutine: destroying that coroutine would destroy a second time what
  /// was alive when it last waited (LLVM issue 61900, open in 2026).
  std::size_t resume();

 private:
  friend class CompletionAwaiter;

  /// What coroutines that outlive the queue still refer to.
  struct Waiting {
    const std::shared_ptr<CompletionQueue> completions = CompletionQueue::create();
    /// By token; no token is used twice, so that one which comes late resumes nobody.
    std::unordered_map<std::uint64_t, std::coroutine_handle<>> coroutines;
    std::uint64_t last_token = 0;
  };

  const std::shared_ptr<Waiting> waiting_;
};

/// What `Connection::completion` returns, to be awaited at once.
///
/// Thread safety: that of its queue.
class [[nodiscard]] CompletionAwaiter {
 public:
  /// Of `Connection::completion`, with its arguments.
  CompletionAwaiter(const Connection& operation, CoroutineQueue& queue, Milestone milestone)
      : operation_(operation), milestone_(milestone), waiting_(queue.waiting_) {}
  CompletionAwaiter(const CompletionAwaiter&) = delete;
  CompletionAwaiter& operator=(const CompletionAwaiter&) = delete;
  /// Takes the wait back, unless it is over.
  ~CompletionAwaiter() {
    if (waiting_->coroutines.erase(token_) > 0) operation_.forget(*waiting_->completions, token_);
  }

  /// Whether the milestone has been passed, so that nobody need wait.
  bool await_ready() const noexcept { return operation_.reached(milestone_); }

  /// Lets the queue resume the coroutine. Returns false when the milestone has been passed
  /// meanwhile, and throws as `Connection::notify` does.
  bool await_suspend(std::coroutine_handle<> coroutine) {
    token_ = ++waiting_->last_token;
    waiting_->coroutines.emplace(token_, coroutine);
    if (operation_.notify(milestone_, waiting_->completions, token_)) return true;
    waiting_->coroutines.erase(token_);
    return false;
  }

  /// Throws the operation's failure, if the wait was for its end and it has one.
  void await_resume() const {
    if (milestone_ == Milestone::ended) operation_.wait();
  }

 private:
  const Connection& operation_;
  const Milestone milestone_;
  const std::shared_ptr<CoroutineQueue::Waiting> waiting_;
  std::uint64_t token_ = 0;
};

inline std::size_t CoroutineQueue::resume() {
  const std::shared_ptr<Waiting> waiting = waiting_;
  std::vector<std::uint64_t> tokens;
  waiting->completions->drain(tokens);
  std::size_t resumed = 0;
  for (auto token = tokens.begin(); token != tokens.end();) {
    const auto due = waiting->coroutines.extract(*token++);
    if (due.empty()) continue;
    ++resumed;
    try {
      due.mapped().resume();
    } catch (...) {
      for (; token != tokens.end(); ++token) waiting->completions->push(*token);
      throw;
    }
  }
  return resumed;
}

inline CompletionAwaiter Connection::completion(CoroutineQueue& queue, Milestone milestone) const {
  return {*this, queue, milestone};
}

NIXL_CONNECT_NAMESPACE_END
