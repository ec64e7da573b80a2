#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nixl_connect/api.h"
#include "nixl_connect/completion.h"
#include "nixl_connect/error.h"
#include "nixl_connect/metadata.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Moves one way, from `initialized` to one of the last three, and reaches an end once.
enum class OperationStatus : std::uint8_t {
  uninitialized = 0,  ///< No operation of this library has it; the number is the Python API's.
  initialized = 1,    ///< Accepted; a passive operation is registered or about to be.
  in_progress = 2,    ///< An active operation's transfer is posted.
  complete = 3,       ///< Every byte is where it should be.
  cancelled = 4,      ///< Cancelled on this side before anything else ended it.
  errored = 5,        ///< It has failed; `Connection::failure` says why.
};

/// The moments of an operation that can be waited for.
enum class Milestone : std::uint8_t {
  ready,     ///< A passive operation's metadata can be had; an active one's transfer is posted.
  ended,     ///< The status is one of the last three.
  released,  ///< NIXL has let go of the memory; never before `ended`.
};

class CompletionAwaiter;
class CoroutineQueue;
class Engine;
struct Operation;

/// The local side of one operation: descriptors, registrations, key, peer, deadline and
/// status, apart from every other operation's.
///
/// Lifetime: a handle. Destroying it withdraws a passive operation that has not ended, and
/// lets an active one run to its end unwatched. The memory is let go when NIXL has stopped
/// using it, whatever becomes of the handle.
///
/// Thread safety: every member may be called from any thread at any time.
class NIXL_CONNECT_API Connection {
 public:
  /// For the connector, which makes these.
  Connection(std::shared_ptr<Operation> operation, std::shared_ptr<Engine> engine) noexcept;
  /// A handle that was moved from may only be destroyed or assigned to.
  Connection(Connection&&) noexcept;
  /// Swaps: what this handle had lives on in the other.
  Connection& operator=(Connection&&) noexcept;
  /// Cancels a passive operation that has not ended. Never blocks.
  ~Connection();

  /// `<connector>-<n>`; unique within the connector.
  std::string name() const;
  /// Whether the active side reads or writes.
  OperationKind kind() const noexcept;
  /// Whether this side waits for the peer to act.
  bool passive() const noexcept;
  /// The key that the active side sends back as a notification.
  const std::string& notification_key() const noexcept;
  /// What a passive operation's metadata names; nothing on an active one.
  const std::vector<RemoteDescriptor>& offered() const noexcept;
  /// The remote agent's name; empty on a passive operation.
  const std::string& remote_name() const noexcept;

  /// Where the operation is now.
  OperationStatus status() const noexcept;
  /// Why the operation ended in `errored`; nothing otherwise.
  std::optional<Failure> failure() const;
  /// Whether the milestone has been passed. An operation that ends passes all before it.
  bool reached(Milestone milestone) const noexcept;

  /// What to send to the peer. Waits until the memory is registered: microseconds, unless the
  /// engine is in the middle of a large copy, or NIXL is being loaded (a second; see
  /// `Connector::start`). Throws `Error(invalid_state)` on an active
  /// operation. If the operation has ended other than `complete`, throws its failure, or
  /// `Error(cancelled)`.
  RdmaMetadata metadata(MetadataEncoding encoding = MetadataEncoding::base64) const;
  /// The same ahead of time, since making it takes a while for very many pieces. Do not send it
  /// before `share`.
  RdmaMetadata draft(MetadataEncoding encoding = MetadataEncoding::base64) const;
  /// What `to_bytes` makes of `metadata`, in fewer steps. Throws as `metadata` does.
  std::string metadata_bytes() const;
  /// What `to_bytes` makes of `draft`.
  std::string draft_bytes() const;
  /// Says that a peer may have the metadata from now on. All calls that return metadata, except the
  /// drafts, imply this. Throws as `metadata` does.
  void share() const;
  /// Only the metadata's field `nixl_metadata`.
  std::string nixl_metadata(MetadataEncoding encoding = MetadataEncoding::base64) const;

  /// Blocks until the milestone or the timeout. Returns whether the milestone was reached.
  bool wait(Milestone milestone, std::optional<std::chrono::nanoseconds> timeout) const;
  /// Blocks until the operation has ended, then throws its failure if it has one. Returns
  /// false when the timeout came first; the operation goes on then.
  bool wait(std::optional<std::chrono::nanoseconds> timeout = std::nullopt) const;

  /// How many peers have read what a passive operation offers, or written it. An operation that was
  /// made for several peers is complete when all have.
  std::uint32_t readers_done() const noexcept;
  /// How many peers have failed, or died, after they had begun. An operation that was made for
  /// several peers has failed when all have ended and one of them has failed.
  std::uint32_t readers_failed() const noexcept;
  /// Blocks until `count` peers are done, the operation has ended, or the timeout. Returns whether
  /// `count` peers are done; throws the operation's failure if it ended before they were.
  bool wait_for_readers(std::uint32_t count,
                        std::optional<std::chrono::nanoseconds> timeout = std::nullopt) const;
  /// As `notify`, for when `count` peers are done, or the operation has ended.
  [[nodiscard]] bool notify_readers(std::uint32_t count, std::shared_ptr<CompletionQueue> queue,
                                    std::uint64_t token) const;

  /// Pushes `token` to `queue` once, when the milestone is reached. Returns false, and pushes
  /// nothing, when that has happened already.
  [[nodiscard]] bool notify(Milestone milestone, std::shared_ptr<CompletionQueue> queue,
                            std::uint64_t token) const;
  /// Takes back a `notify` that has not fired. Harmless otherwise.
  void forget(const CompletionQueue& queue, std::uint64_t token) const;

  /// For C++20 coroutines, with "nixl_connect/coroutine.h": `co_await operation.completion(queue)`
  /// continues from `queue.resume()` when the milestone is reached, or goes on at once when that
  /// has happened already. For `ended` it then throws the operation's failure, as `wait` does;
  /// after a cancellation it returns. This handle must stay where it is meanwhile.
  inline CompletionAwaiter completion(CoroutineQueue& queue,
                                      Milestone milestone = Milestone::ended) const;

  /// Ends the operation as `cancelled` if it has not ended. A transfer that is already posted
  /// keeps its memory pinned until NIXL reports its end; the peer learns what became of it.
  void cancel() const;

 private:
  /// Null in what was moved from.
  std::shared_ptr<Operation> operation_;
  std::shared_ptr<Engine> engine_;
};

NIXL_CONNECT_NAMESPACE_END
