#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "agent/agent.h"
#include "agent/memory_registry.h"
#include "agent/peer_table.h"
#include "nixl_connect/connection.h"
#include "nixl_connect/descriptor.h"
#include "nixl_connect/fence.h"
#include "wire/blob.h"
#include "wire/metadata_encoder.h"

NIXL_CONNECT_NAMESPACE_BEGIN

class Engine;

using Clock = std::chrono::steady_clock;

/// Longer than anybody waits, and short enough to be added to a time.
inline constexpr std::chrono::nanoseconds kLongestWait = std::chrono::hours(24 * 365 * 30);

/// One operation: what the caller's `Connection` and the engine share.
///
/// Lifetime: the caller's handle and, until the memory is released, the engine.
struct ConnectionState {
  using Deadlines = std::multimap<Clock::time_point, std::shared_ptr<ConnectionState>>;

  /// Where the engine has taken it.
  enum class Phase : std::uint8_t { fresh, fenced, offered, lingering, split, flying, released };

  // Set before the engine sees it, then read by anybody.
  std::shared_ptr<Engine> engine;
  std::uint64_t number = 0;
  OperationKind kind = OperationKind::unspecified;
  bool passive = false;
  std::string key;
  std::string remote_name;
  std::vector<RemoteDescriptor> offered;
  std::size_t bytes = 0;
  std::optional<std::chrono::nanoseconds> time_limit;
  Clock::time_point began;

  // Set before the engine sees it, then the engine's alone.
  std::vector<Descriptor> local;
  std::vector<Region> local_regions;
  RemoteOffer remote;
  /// What must have happened before any of that is used.
  std::vector<Fence> after;
  /// Whether some of the memory here is a GPU's.
  bool on_device = false;
  /// Whether it is registered and begun within microseconds, and no time is spent on moving it.
  bool small = false;
  /// Most of a large transfer, to be moved by other engines. When all have been, the operation
  /// itself moves what is left, and so tells the peer.
  std::vector<std::shared_ptr<ConnectionState>> parts;
  /// What this is a part of.
  std::shared_ptr<ConnectionState> whole;

  // The engine's alone.
  std::size_t parts_left = 0;
  /// The engine tells the peer of the end, not NIXL with the transfer.
  bool told_by_engine = false;
  Phase phase = Phase::fresh;
  MemoryRegistry::Lease lease;
  std::optional<Transfer> transfer;
  std::shared_ptr<Peer> peer;
  std::optional<Deadlines::iterator> deadline;

  // Anybody's.
  /// Whether the caller has had the metadata, so that a peer may have it too.
  std::atomic<bool> told{false};
  OperationStatus status() const noexcept { return status_.load(std::memory_order_acquire); }
  bool ended() const noexcept { return status() >= OperationStatus::complete; }
  bool reached(Milestone milestone) const noexcept {
    return passed_.load(std::memory_order_acquire) > static_cast<int>(milestone);
  }
  std::optional<Failure> failure() const;
  /// "read from 'peer' (worker-3)" or "readable operation (worker-3)".
  std::string describe() const;
  std::string name() const;

  std::string nixl_metadata(MetadataEncoding encoding) const;

  /// A passive operation is registered, and this is its metadata.
  void make_ready(std::string nixl_blob, std::shared_ptr<const MetadataEncoder> encoder);
  /// An active operation's transfer is posted.
  void make_in_progress();
  /// Returns false, and changes nothing, when it has ended before.
  bool finish(OperationStatus status, std::optional<Failure> failure = std::nullopt);
  /// NIXL uses the memory no more: drops what belongs to the engine, with the turn.
  void detach();
  /// Then drops what keeps the memory alive, and passes the last milestone. Without the turn:
  /// owners may call back.
  void let_go();

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
  std::optional<Failure> failure_;
  std::string nixl_blob_;
  std::shared_ptr<const MetadataEncoder> encoder_;
  std::vector<Watcher> watchers_;
};

NIXL_CONNECT_NAMESPACE_END
