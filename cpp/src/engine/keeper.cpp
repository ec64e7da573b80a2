#include "engine/keeper.h"

#include <pthread.h>

#include <chrono>
#include <csignal>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "system/process.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

constexpr std::chrono::milliseconds kPause{20};

struct Kept {
  std::mutex mutex;
  std::vector<std::shared_ptr<Releasable>> objects;
  /// In which process a thread looks after them.
  pid_t looked_after_in = 0;
};

/// Never destroyed: the thread may outlive static objects.
Kept& kept() {
  static Kept& all = *new Kept;
  return all;
}

/// Takes out what is not in use any more. Returns nothing, and there is no thread from then on,
/// when nothing is left.
std::vector<std::shared_ptr<Releasable>> take_free() {
  std::vector<std::shared_ptr<Releasable>> free;
  Kept& all = kept();
  const std::lock_guard lock(all.mutex);
  std::erase_if(all.objects, [&](const std::shared_ptr<Releasable>& object) {
    if (object->in_use()) return false;
    free.push_back(object);
    return true;
  });
  if (free.empty() && all.objects.empty()) all.looked_after_in = 0;
  return free;
}

bool is_looked_after() {
  const std::lock_guard lock(kept().mutex);
  return kept().looked_after_in == this_process();
}

void look_after() {
  ::pthread_setname_np(::pthread_self(), "nixl_connect");
  while (is_looked_after()) {
    for (const auto& object : take_free()) object->release();
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace

void keep_while_in_use(std::vector<std::shared_ptr<Releasable>> objects) noexcept {
  if (objects.empty()) return;
  Kept& all = kept();
  const std::lock_guard lock(all.mutex);
  all.objects.insert(all.objects.end(), objects.begin(), objects.end());
  if (all.looked_after_in == this_process()) return;
  // Signals are for the threads that were there before.
  ::sigset_t every, before;
  ::sigfillset(&every);
  ::pthread_sigmask(SIG_SETMASK, &every, &before);
  try {
    std::thread(look_after).detach();
    all.looked_after_in = this_process();
  } catch (const std::system_error&) {
    // Without a thread they stay until there is one for others.
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

NIXL_CONNECT_NAMESPACE_END
