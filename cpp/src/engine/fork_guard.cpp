#include "engine/fork_guard.h"

#include "nixl_connect/error.h"
#include "system/process.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// The process that started UCX, whose threads and descriptors a forked child has no use of:
/// transfers that are begun there with an agent of the child's own never end (seen with UCX
/// 1.23).
std::atomic<pid_t> ucx_process{0};

}  // namespace

bool ForkGuard::is_child() const noexcept {
  const pid_t process = process_.load(std::memory_order_relaxed);
  return process != 0 && process != this_process();
}

void ForkGuard::check() const {
  if (is_child()) {
    throw Error(ErrorCode::forked,
                "connector '" + *connector_ +
                    "': was started in the parent of this forked process, and works only there; "
                    "fork before the first use of a connector, or spawn instead");
  }
}

void ForkGuard::check_ucx_thread() const {
  // As UCX names it since 1.13.
  if (!is_forked() || has_thread("async")) return;
  throw Error(ErrorCode::forked,
              "connector '" + *connector_ +
                  "': cannot start, because this process was forked from one in which UCX had been "
                  "used, by another library, and UCX does not survive that; fork before its first "
                  "use, or spawn instead");
}

void ForkGuard::claim() {
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
}

NIXL_CONNECT_NAMESPACE_END
