#pragma once

#include <sys/types.h>

#include <cstdint>
#include <utility>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Sees when a process has ended, whoever has its number then.
///
/// Thread safety: none.
class ProcessWatch {
 public:
  explicit ProcessWatch(pid_t process) noexcept;
  ProcessWatch(ProcessWatch&& other) noexcept
      : process_(other.process_), start_(other.start_), file_(std::exchange(other.file_, -1)) {}
  ProcessWatch& operator=(ProcessWatch&&) = delete;
  ~ProcessWatch();

  pid_t process() const noexcept { return process_; }
  /// Whether it has ended, or there was none.
  bool ended() const noexcept;

 private:
  const pid_t process_;
  const std::uint32_t start_;
  /// A pidfd, where the system has them.
  int file_ = -1;
};

NIXL_CONNECT_NAMESPACE_END
