#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "nixl_connect/completion.h"
#include "nixl_connect/connection.h"
#include "wire/metadata_encoder.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// How far an operation is: its status, its milestones, its failure, its metadata, and who waits.
///
/// Thread safety: every member may be called from any thread.
class Progress {
 public:
  OperationStatus status() const noexcept { return status_.load(std::memory_order_acquire); }
  /// Whether the status is one of the last three.
  bool ended() const noexcept { return status() >= OperationStatus::complete; }
  bool reached(Milestone milestone) const noexcept {
    return passed_.load(std::memory_order_acquire) > static_cast<int>(milestone);
  }
  std::optional<Failure> failure() const;

  /// A passive operation is registered, and this is its metadata.
  void make_ready(std::string nixl_blob, std::shared_ptr<const MetadataEncoder> encoder);
  /// An active operation's transfer is posted.
  void make_in_progress();
  /// Returns false, and changes nothing, when the operation has ended before.
  bool finish(OperationStatus status, std::optional<Failure> failure = std::nullopt);
  /// Nobody uses the memory any more. Passes the last milestone.
  void release();

  /// The caller is about to have the metadata, and so may a peer. Returns false when the operation
  /// has ended. Either this sees the end, or whoever ends the operation sees `metadata_taken`.
  bool take_metadata();
  bool metadata_taken() const;
  std::string nixl_metadata(MetadataEncoding encoding) const;

  /// As those of `Connection`.
  bool wait(Milestone milestone, std::optional<std::chrono::nanoseconds> timeout);
  bool notify(Milestone milestone, std::shared_ptr<CompletionQueue> queue, std::uint64_t token);
  void forget(const CompletionQueue& queue, std::uint64_t token);

 private:
  struct Watcher {
    Milestone milestone;
    std::shared_ptr<CompletionQueue> queue;
    std::uint64_t token;
  };

  /// Passes the milestone and those before it. Called without the lock.
  void pass(Milestone milestone);

  std::atomic<OperationStatus> status_{OperationStatus::initialized};
  /// How many milestones are passed.
  std::atomic<int> passed_{0};

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool metadata_taken_ = false;
  std::optional<Failure> failure_;
  std::string nixl_blob_;
  std::shared_ptr<const MetadataEncoder> encoder_;
  std::vector<Watcher> watchers_;
};

NIXL_CONNECT_NAMESPACE_END
