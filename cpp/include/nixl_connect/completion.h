#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// The way completions reach a poll loop: a queue of tokens and a descriptor that is readable
/// while the queue holds any.
///
/// The descriptor (an `eventfd`, close-on-exec, non-blocking) is written when the queue goes
/// from empty to non-empty, and read when it is emptied: many completions cost one wake-up, none
/// is lost, and to drain an empty queue costs no system call.
///
/// Thread safety: distinct objects are independent; `push` may be called from any thread;
/// `drain` from one thread at a time.
class NIXL_CONNECT_API CompletionQueue : public std::enable_shared_from_this<CompletionQueue> {
 public:
  /// Throws `Error(backend)` when the process is out of descriptors.
  static std::shared_ptr<CompletionQueue> create();

  CompletionQueue(const CompletionQueue&) = delete;
  CompletionQueue& operator=(const CompletionQueue&) = delete;
  /// Closes the descriptor. Operations that would push to a queue keep it alive until they have.
  ~CompletionQueue();

  /// Poll this for reading. Owned by the queue.
  int fd() const noexcept { return fd_; }

  /// Appends the tokens that have arrived to `tokens`, in order of arrival. Never blocks.
  void drain(std::vector<std::uint64_t>& tokens);

  /// Appends a token, and makes the descriptor readable if there was none. For the program's own
  /// tokens too. Never blocks; throws `std::bad_alloc` alone.
  void push(std::uint64_t token);

 private:
  explicit CompletionQueue(int fd) noexcept : fd_(fd) {}

  const int fd_;
  std::mutex mutex_;
  std::vector<std::uint64_t> tokens_;
};

NIXL_CONNECT_NAMESPACE_END
