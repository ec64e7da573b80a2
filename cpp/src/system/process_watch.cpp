#include "system/process_watch.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "system/process.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

NIXL_CONNECT_NAMESPACE_BEGIN

ProcessWatch::ProcessWatch(pid_t process) noexcept
    : process_(process), start_(process_start(process)) {
  if (process != this_process()) {
    // Close-on-exec by itself.
    file_ = static_cast<int>(::syscall(SYS_pidfd_open, process, 0));
  }
}

ProcessWatch::~ProcessWatch() {
  if (file_ >= 0) ::close(file_);
}

bool ProcessWatch::ended() const noexcept {
  if (process_ == this_process()) return false;
  if (start_ == 0) return true;
  if (file_ < 0) return process_start(process_) != start_;
  ::pollfd watched{file_, POLLIN, 0};
  return ::poll(&watched, 1, 0) > 0;
}

NIXL_CONNECT_NAMESPACE_END
