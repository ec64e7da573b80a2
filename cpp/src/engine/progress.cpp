#include "engine/progress.h"

#include <algorithm>

#include "engine/clock.h"

NIXL_CONNECT_NAMESPACE_BEGIN

OperationStatus Progress::status() const noexcept {
  const OperationStatus status = status_.load(std::memory_order_acquire);
  const bool is_read = status == OperationStatus::initialized && slot_ != nullptr &&
                       slot_->has_begun(generation_, places_);
  return is_read ? OperationStatus::in_progress : status;
}

std::optional<Failure> Progress::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

ErrorCode Progress::failure_code() const noexcept {
  const std::lock_guard lock(mutex_);
  return failure_ ? failure_->code : ErrorCode::backend;
}

bool Progress::take_metadata() {
  const std::lock_guard lock(mutex_);
  metadata_taken_ = true;
  return !ended();
}

bool Progress::metadata_taken() const {
  const std::lock_guard lock(mutex_);
  return metadata_taken_;
}

std::string Progress::nixl_metadata(MetadataEncoding encoding) const {
  const auto [blob, encoder] = offered();
  return encoding == MetadataEncoding::base64 ? encoder->encode(*blob)
                                              : encode_nixl_metadata(*blob, encoding);
}

Progress::Offered Progress::offered() const {
  // Of many regions encoding takes a while, in which others ask how far the operation is.
  const std::lock_guard lock(mutex_);
  return {nixl_blob_, encoder_};
}

void Progress::make_ready(std::string nixl_blob, std::shared_ptr<const MetadataEncoder> encoder) {
  auto blob = std::make_shared<const std::string>(std::move(nixl_blob));
  {
    const std::lock_guard lock(mutex_);
    nixl_blob_ = std::move(blob);
    encoder_ = std::move(encoder);
  }
  pass(Milestone::ready);
}

void Progress::make_in_progress() {
  {
    const std::lock_guard lock(mutex_);
    if (!ended()) {
      status_.store(OperationStatus::in_progress, std::memory_order_release);
    }
  }
  pass(Milestone::ready);
}

bool Progress::finish(OperationStatus status, std::optional<Failure> failure) {
  {
    const std::lock_guard lock(mutex_);
    if (ended()) return false;
    failure_ = std::move(failure);
    status_.store(status, std::memory_order_release);
  }
  pass(Milestone::ended);
  return true;
}

void Progress::release() { pass(Milestone::released); }

void Progress::pass(Milestone milestone) {
  std::unique_lock lock(mutex_);
  const int passed = static_cast<int>(milestone) + 1;
  if (passed_.load(std::memory_order_relaxed) >= passed) return;
  passed_.store(passed, std::memory_order_release);
  notify_due(std::move(lock), [&](const Watcher& w) {
    return w.milestone <= milestone && (w.readers == 0 || milestone >= Milestone::ended);
  });
}

template <typename IsDue>
void Progress::notify_due(std::unique_lock<std::mutex> lock, IsDue is_due) {
  std::vector<Watcher> due;
  std::copy_if(watchers_.begin(), watchers_.end(), std::back_inserter(due), is_due);
  std::erase_if(watchers_, is_due);
  lock.unlock();
  changed_.notify_all();
  for (const Watcher& w : due) w.queue->push(w.token);
}

void Progress::reader_ended(bool done) {
  ++(done ? readers_done_ : readers_failed_);
  // The end of the only one is the operation's.
  if (places_ == 1) return;
  std::unique_lock lock(mutex_);
  notify_due(std::move(lock),
             [&](const Watcher& w) { return w.readers > 0 && have_read(w.readers); });
}

bool Progress::wait_for_readers(std::uint32_t count,
                                std::optional<std::chrono::nanoseconds> timeout) {
  std::unique_lock lock(mutex_);
  const auto there = [&] { return have_read(count); };
  return changed_.wait_for(lock, std::min(timeout.value_or(kLongestWait), kLongestWait), there);
}

bool Progress::notify_readers(std::uint32_t count, std::shared_ptr<CompletionQueue> queue,
                              std::uint64_t token) {
  const std::lock_guard lock(mutex_);
  if (have_read(count)) return false;
  watchers_.push_back({Milestone::ready, std::move(queue), token, count});
  return true;
}

bool Progress::wait(Milestone milestone, std::optional<std::chrono::nanoseconds> timeout) {
  std::unique_lock lock(mutex_);
  const auto there = [&] { return reached(milestone); };
  if (!timeout) {
    changed_.wait(lock, there);
    return true;
  }
  return changed_.wait_for(lock, std::min(*timeout, kLongestWait), there);
}

bool Progress::notify(Milestone milestone, std::shared_ptr<CompletionQueue> queue,
                      std::uint64_t token) {
  const std::lock_guard lock(mutex_);
  if (reached(milestone)) return false;
  watchers_.push_back({milestone, std::move(queue), token, 0});
  return true;
}

void Progress::forget(const CompletionQueue& queue, std::uint64_t token) {
  const std::lock_guard lock(mutex_);
  std::erase_if(watchers_,
                [&](const Watcher& w) { return w.queue.get() == &queue && w.token == token; });
}

NIXL_CONNECT_NAMESPACE_END
