#include "system/process.h"

#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

std::atomic<pid_t> known{0};

/// Children ask again. Before anything can call `this_process`, and so outside any `fork`.
[[maybe_unused]] const int registered =
    ::pthread_atfork(nullptr, nullptr, [] { known.store(0, std::memory_order_relaxed); });

}  // namespace

pid_t this_process() noexcept {
  pid_t process = known.load(std::memory_order_relaxed);
  if (process == 0) {
    process = ::getpid();
    known.store(process, std::memory_order_relaxed);
  }
  return process;
}

void stay_loaded() noexcept {
  Dl_info here;
  // Finds nothing when this is part of the program, which stays anyway.
  if (::dladdr(&known, &here) != 0) {
    ::dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
  }
}

NIXL_CONNECT_NAMESPACE_END
