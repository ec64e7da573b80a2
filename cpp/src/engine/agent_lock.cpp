#include "engine/agent_lock.h"

#include <algorithm>
#include <utility>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// How often a caller tries to get the lock.
constexpr int kTries = 200;

thread_local bool held_by_this_thread = false;

}  // namespace

bool AgentLock::held_here() noexcept { return held_by_this_thread; }

AgentLock::Guard::Guard(AgentLock& lock) : lock_(lock), held_(lock.mutex_) {
  held_by_this_thread = true;
  enter_context();
}

AgentLock::Guard::Guard(AgentLock& lock, std::try_to_lock_t) : lock_(lock) {
  if (held_by_this_thread) return;
  held_ = std::unique_lock(lock.mutex_, std::defer_lock);
  for (int i = 0; i < kTries && !held_by_this_thread; ++i) held_by_this_thread = held_.try_lock();
  if (held_by_this_thread) enter_context();
}

AgentLock::Guard::~Guard() {
  if (!held_.owns_lock()) return;
  const auto to_release = std::exchange(lock_.to_release_, {});
  lock_.current_ = nullptr;
  context_.reset();
  held_by_this_thread = false;
  held_.unlock();
  for (const auto& object : to_release) object->release();
}

void AgentLock::Guard::enter_context() {
  lock_.current_ = this;
  context_.emplace(lock_.context_);
}

void AgentLock::release_later(std::vector<std::shared_ptr<Releasable>>& objects) {
  if (to_release_.empty()) {
    to_release_.swap(objects);
    return;
  }
  to_release_.insert(to_release_.end(), objects.begin(), objects.end());
  objects.clear();
}

cuda::Context* AgentLock::context_to_enter(const std::vector<Region>& regions) {
  const auto on_device = std::find_if(regions.begin(), regions.end(),
                                      [](const Region& region) { return region.type == kVram; });
  if (on_device == regions.end()) return nullptr;
  cuda::Context* const context = cuda_context_of(*on_device);
  if (context_ == nullptr) {
    context_ = context;
    current_->enter_context();
  }
  return context == current_cuda_context() ? nullptr : context;
}

NIXL_CONNECT_NAMESPACE_END
