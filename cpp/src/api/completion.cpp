#include "nixl_connect/completion.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "nixl_connect/error.h"

NIXL_CONNECT_NAMESPACE_BEGIN

std::shared_ptr<CompletionQueue> CompletionQueue::create() {
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) {
    throw Error(ErrorCode::backend, std::string("eventfd: ") + std::strerror(errno));
  }
  return std::shared_ptr<CompletionQueue>(new CompletionQueue(fd));
}

CompletionQueue::~CompletionQueue() { ::close(fd_); }

void CompletionQueue::drain(std::vector<std::uint64_t>& tokens) {
  const std::lock_guard lock(mutex_);
  if (tokens_.empty()) return;
  std::uint64_t count = 0;
  // With the lock held, as it was written: the descriptor is readable exactly while there are
  // tokens.
  [[maybe_unused]] const ssize_t n = ::read(fd_, &count, sizeof count);
  tokens.insert(tokens.end(), tokens_.begin(), tokens_.end());
  tokens_.clear();
}

void CompletionQueue::push(std::uint64_t token) {
  const std::lock_guard lock(mutex_);
  const bool was_empty = tokens_.empty();
  tokens_.push_back(token);
  if (!was_empty) return;
  const std::uint64_t one = 1;
  // Cannot fail: the counter is 0.
  [[maybe_unused]] const ssize_t n = ::write(fd_, &one, sizeof one);
}

NIXL_CONNECT_NAMESPACE_END
