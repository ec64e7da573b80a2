#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "claims/offer_slot.h"
#include "nixl_connect/completion.h"
#include "nixl_connect/connection.h"
#include "system/steady_condition.h"
#include "wire/metadata_encoder.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// How far an operation is: its status, its milestones, its failure, its metadata, and who waits.
///
/// Thread safety: every member may be called from any thread.
class Progress {
 public:
  OperationStatus status() const noexcept;
  /// Whether the status is one of the last three.
  bool ended() const noexcept {
    return status_.load(std::memory_order_acquire) >= OperationStatus::complete;
  }
  bool reached(Milestone milestone) const noexcept {
    return passed_.load(std::memory_order_acquire) > static_cast<int>(milestone);
  }
  std::optional<Failure> failure() const;
  /// Of its failure; `backend` where there is none.
  ErrorCode failure_code() const noexcept;

  /// Where a passive operation is seen to be in progress. Before anybody else has this.
  void watch(const OfferSlot& slot, std::uint32_t generation, std::uint32_t places) noexcept {
    slot_ = &slot;
    generation_ = generation;
    places_ = places;
  }
  /// A passive operation's reader has completed, or failed.
  void reader_ended(bool done);
  std::uint32_t readers_done() const noexcept { return readers_done_.load(); }
  std::uint32_t readers_failed() const noexcept { return readers_failed_.load(); }
  /// As `Connection::wait_for_readers` and `notify_readers`.
  bool wait_for_readers(std::uint32_t count, std::optional<std::chrono::nanoseconds> timeout);
  bool notify_readers(std::uint32_t count, std::shared_ptr<CompletionQueue> queue,
                      std::uint64_t token);

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
  /// What its metadata is made of. Once it is ready.
  struct Offered {
    std::shared_ptr<const std::string> blob;
    std::shared_ptr<const MetadataEncoder> encoder;
  };
  Offered offered() const;
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
    /// With the first milestone only: not before so many readers have completed, or the end.
    std::uint32_t readers = 0;
  };
  bool have_read(std::uint32_t count) const noexcept { return ended() || readers_done() >= count; }
  /// Takes the watchers out that this is for, and notifies them and those who wait. Called with
  /// `lock`, which it gives up.
  template <typename IsDue>
  void notify_due(std::unique_lock<std::mutex> lock, IsDue is_due);

  /// Passes the milestone and those before it. Called without the lock.
  void pass(Milestone milestone);

  std::atomic<OperationStatus> status_{OperationStatus::initialized};
  /// How many milestones are passed.
  std::atomic<int> passed_{0};

  std::atomic<std::uint32_t> readers_done_{0};
  std::atomic<std::uint32_t> readers_failed_{0};
  const OfferSlot* slot_ = nullptr;
  std::uint32_t generation_ = 0;
  std::uint32_t places_ = 0;

  mutable std::mutex mutex_;
  SteadyCondition changed_;
  bool metadata_taken_ = false;
  std::optional<Failure> failure_;
  std::shared_ptr<const std::string> nixl_blob_;
  std::shared_ptr<const MetadataEncoder> encoder_;
  std::vector<Watcher> watchers_;
};

NIXL_CONNECT_NAMESPACE_END
