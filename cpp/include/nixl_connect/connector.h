#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nixl_connect/api.h"
#include "nixl_connect/connection.h"
#include "nixl_connect/descriptor.h"
#include "nixl_connect/error.h"
#include "nixl_connect/fence.h"
#include "nixl_connect/metadata.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// How a connector is set up; each option has a default that suits most.
struct ConnectorOptions {
  /// The worker's name; the agent's name is made from it and a part that is unique to this
  /// process's life, because NIXL refuses a restarted peer under its old name.
  std::string name = "worker";
  /// NIXL's backend.
  std::string backend = "UCX";
  /// Its parameters, over the plug-in's defaults.
  std::map<std::string, std::string> backend_parameters{};
  /// How long an operation may take unless it says otherwise; nothing for no deadline.
  std::optional<std::chrono::nanoseconds> default_timeout = std::chrono::minutes(5);
  /// Whether NIXL runs a progress thread of its own. It burns most of a core even when idle
  /// on hosts without RDMA (measured, NIXL 1.5.1), and the engine makes progress without it.
  bool progress_thread = false;
  /// How long the engine keeps polling at full speed after something happened.
  std::chrono::microseconds spin{200};
  /// The longest pause between two polls while an operation is pending. Pauses grow with the time
  /// since something last happened: to 1 ms after 8 ms (after 32 ms while an operation is about
  /// that is larger than `inline_limit` or on a GPU), to 10 ms after 0.64 s. A transfer may need
  /// two polls.
  std::chrono::microseconds max_pause{10'000};
  /// NIXL agents, each with a thread. The first does all small operations, the others do large ones
  /// on host memory (from 1 MiB). Each large operation is cut into at most as many parts. On
  /// hosts without RDMA they are copied at the same time. With one engine, a large transfer holds
  /// up whatever comes after it.
  std::size_t engines = 1;
  /// The calling thread itself registers and begins operations on host memory of up to this many
  /// bytes, when the engine is free and the peer is known; that takes it 5 to 40 us. It offers
  /// more, too, where that takes no longer: where no RDMA device or GPU pins it. The engine's
  /// thread does the others, and with 0 all.
  std::size_t inline_limit = std::size_t{64} << 10;
  /// How long the memory of a cancelled or expired passive operation stays registered and alive,
  /// when a peer of which nothing is known may still use it. Peers that run this library claim an
  /// offer before they touch its memory: memory that they use stays until they are done, and memory
  /// that nobody uses is released at once. Other peers, such as Dynamo's, claim nothing.
  std::chrono::milliseconds linger{10'000};
  /// Whether there are peers that make no claims. Nothing: assumed once one has been seen.
  std::optional<bool> foreign_peers{};
  /// The most bytes that linger for such peers; beyond that the oldest are released first.
  std::size_t max_linger_bytes = std::size_t{16} << 30;
  /// How long `close` lets posted transfers come to their end.
  std::chrono::milliseconds close_grace{1000};
  /// How many remote keys of one peer are kept loaded before that peer is loaded afresh, with new
  /// endpoints. With RDMA each registration of memory has a key of its own; without RDMA all
  /// registrations have the same key.
  std::size_t max_peer_keys = 16384;
  /// How many peers are kept loaded before the least recently used one is forgotten.
  std::size_t max_peers = 1024;
  /// `libnixl_capi.so` itself; overrides the search.
  std::string nixl_library{};
  /// Places to search after the environment variable `NIXL_CONNECT_NIXL_LIBRARY` and the
  /// libraries this process has loaded, and before the system's.
  std::vector<std::string> nixl_library_candidates{};
};

/// Any number of readers, or writers, until the offer is withdrawn.
inline constexpr std::uint32_t kAnyNumber = 0x7fffffff;

/// What became of the operations of one kind that have ended and let go of their memory.
struct OperationStats {
  /// `latency` has so many counts.
  static constexpr std::size_t kLatencyBuckets = 32;

  std::uint64_t complete = 0;   ///< Whose bytes have all arrived.
  std::uint64_t cancelled = 0;  ///< On this side.
  std::uint64_t errored = 0;    ///< Failed, also those that passed their deadline.
  /// Those that failed, by the number of their `ErrorCode`.
  std::array<std::uint64_t, kErrorCodes> failures{};
  /// Of the complete ones, in bytes.
  std::uint64_t bytes = 0;
  /// How long the complete ones took together, each from the call that made it until it was
  /// complete here. For a passive one this includes the wait for its peer.
  std::chrono::nanoseconds total_latency{0};
  /// Counts of the complete ones: `latency[i]` of them took less than 2^i microseconds, and not
  /// less than half of that. The last count has all that took longer.
  std::array<std::uint64_t, kLatencyBuckets> latency{};
};

/// What a connector has done and holds, at one moment. Each figure is right; together they may be
/// a moment apart.
struct ConnectorStats {
  OperationStats readable;  ///< Made by `create_readable`.
  OperationStats writable;  ///< Made by `create_writable`.
  OperationStats read;      ///< Made by `begin_read`.
  OperationStats write;     ///< Made by `begin_write`.
  /// Operations that wait for their fences, such as work on a GPU.
  std::size_t fenced = 0;
  /// Passive operations that wait for a peer, or linger.
  std::size_t waiting = 0;
  /// Those among `waiting` that have ended here, but whose memory a peer uses or may use.
  std::size_t lingering = 0;
  /// Bytes of memory of those that linger.
  std::size_t lingering_bytes = 0;
  /// Time since the oldest passive operation that waits and does not linger was made; 0 for none.
  std::chrono::nanoseconds oldest_waiting{0};
  /// Transfers that NIXL has not ended.
  std::size_t in_flight = 0;
  /// How long ago the oldest of them was made; 0 for none.
  std::chrono::nanoseconds oldest_in_flight{0};
  /// Regions that are registered with NIXL, by hand or for an operation.
  std::size_t registered_regions = 0;
  /// Remote agents that are loaded.
  std::size_t peers = 0;
  /// Operations that a peer has sent a notification of.
  std::uint64_t notifications_matched = 0;
  /// Late, duplicate and foreign ones; counted and dropped.
  std::uint64_t notifications_unknown = 0;
  /// Messages that the engine itself has sent; each reports one failure, or any number of
  /// successes. NIXL's own notifications, which go with a transfer, are not counted.
  std::uint64_t notifications_sent = 0;
  /// How often NIXL refused to send a message; each attempt counts.
  std::uint64_t notifications_refused = 0;
  /// How often the engine's threads have woken up.
  std::uint64_t wakeups = 0;
  /// Processor time of the engine's threads.
  std::chrono::nanoseconds cpu_time{0};
};

/// Memory registered by hand: it stays registered, and operations that use it or parts of it
/// share the registration, until this is destroyed.
///
/// Thread safety: distinct objects are independent. Destruction never blocks.
class NIXL_CONNECT_API Registration {
 public:
  /// Holds nothing.
  Registration() noexcept;
  /// Leaves the other holding nothing.
  Registration(Registration&&) noexcept;
  /// Swaps: what this held lives on in the other.
  Registration& operator=(Registration&&) noexcept;
  /// Deregisters.
  ~Registration();

  /// Whether it holds anything.
  explicit operator bool() const noexcept { return impl_ != nullptr; }
  /// Deregisters, unless that has begun already. Returns at once. Operations that this thread
  /// begins afterwards do not use the registration. The owner of the memory is kept until the
  /// registration is given back.
  void reset() noexcept;
  /// As `reset`, and pushes `token` to `queue` when this registration is given back. Memory without
  /// an owner may be freed then, if no operation that uses it is left unreleased. Returns false,
  /// and pushes nothing, when this holds nothing.
  bool reset(std::shared_ptr<CompletionQueue> queue, std::uint64_t token) noexcept;

 private:
  friend class Connector;
  /// Each lease with the engine that it is of.
  struct Impl;

  std::unique_ptr<Impl> impl_;
};

/// A call that blocks asks this every 50 ms, on the calling thread, and ends at once when the
/// answer is true. Must not throw. For a language's runtime, which has signals to handle.
using Interrupt = std::function<bool()>;

/// Moves memory between this process and others: one NIXL agent, driven by one thread.
///
/// The agent and the thread are made by the first call that needs them, not by the
/// constructor, so that a connector can be made before a `fork` and used after it.
///
/// From then on the library stays loaded, and so does the plug-in that it is linked into. A plug-in
/// that uses the shared library closes its connectors before it is unloaded.
///
/// Errors: each call throws `Error`; `closed` after `close`, `forked` in a child that was
/// forked after a connector had been used, because UCX does not survive that. A later failure ends
/// the operation, and its `Connection` reports the failure.
///
/// Thread safety: every member may be called from any thread at any time.
class NIXL_CONNECT_API Connector {
 public:
  /// Makes nothing yet. Throws `Error(invalid_argument)` for an impossible name or number of
  /// engines.
  explicit Connector(ConnectorOptions options = {});
  Connector(const Connector&) = delete;
  Connector& operator=(const Connector&) = delete;
  /// Closes.
  ~Connector();

  /// As in the options.
  const std::string& name() const noexcept;
  /// Path of the NIXL library in use; empty before the agent is made.
  std::string nixl_library() const;

  /// Makes the agent if that has not begun, or has failed before; returns at once.
  void start();
  /// As `Connection::notify`, for the moment when the agent is made or has failed to be.
  /// Throws nothing; `check_started` tells which it was.
  [[nodiscard]] bool notify_started(std::shared_ptr<CompletionQueue> queue, std::uint64_t token);
  /// Whether the agent is made. Throws why it could not be.
  bool check_started() const;
  /// Whether the agent is made. Throws nothing.
  bool started() const noexcept;
  /// Makes the agent if that has not begun, and blocks until it is made; throws why it could not
  /// be, or `Error(cancelled)` when interrupted.
  void wait_started(const Interrupt& interrupt = {});

  /// Offers memory that a peer may read. The timeout replaces the default one; a negative one
  /// means no deadline. The metadata is available when all fences have been passed: give
  /// `after_cuda_stream` of the stream that fills memory on a GPU, unless it is idle. Throws
  /// `Error(invalid_argument)` for an empty list, and for a descriptor that is impossible, or of
  /// another CUDA device than it says. The operation ends with that error when the metadata would
  /// be larger than peers accept (`kMaxBlobSize`, some 380,000 pieces that are not registered by
  /// hand). Descriptors of several kinds of memory may be mixed.
  /// The operation is complete when `readers` peers have read it, each with an operation of its
  /// own: by default one, and with `kAnyNumber` never, until it is withdrawn. A peer beyond that
  /// number, a late one, or one that comes a second time gets `Error(offer_closed)`.
  [[nodiscard]] Connection create_readable(
      std::vector<Descriptor> local, std::optional<std::chrono::nanoseconds> timeout = std::nullopt,
      std::vector<Fence> after = {}, std::uint32_t readers = 1);
  /// Offers memory that a peer may write. Else as `create_readable`.
  [[nodiscard]] Connection create_writable(
      std::vector<Descriptor> local, std::optional<std::chrono::nanoseconds> timeout = std::nullopt,
      std::vector<Fence> after = {}, std::uint32_t writers = 1);

  /// Begins to read what a peer offers. The metadata is checked here, on the caller's thread. The
  /// transfer starts by itself when all fences have been passed. The timeout is as in
  /// `create_readable`.
  /// Throws `Error(invalid_argument)` when the local list is wrong by itself, or does not match the
  /// remote's in number and sizes, and `Error(rejected_metadata)` when the metadata is not
  /// right, or is for a write.
  [[nodiscard]] Connection begin_read(
      const RdmaMetadata& remote, std::vector<Descriptor> local,
      std::optional<std::chrono::nanoseconds> timeout = std::nullopt,
      std::vector<Fence> after = {});
  /// The same, from the metadata's bytes, in fewer steps than by way of `metadata_from_bytes`.
  [[nodiscard]] Connection begin_read(
      std::string_view remote, std::vector<Descriptor> local,
      std::optional<std::chrono::nanoseconds> timeout = std::nullopt,
      std::vector<Fence> after = {});
  /// Begins to write to what a peer offers. Else as `begin_read`.
  [[nodiscard]] Connection begin_write(
      std::vector<Descriptor> local, const RdmaMetadata& remote,
      std::optional<std::chrono::nanoseconds> timeout = std::nullopt,
      std::vector<Fence> after = {});
  /// The same, of the metadata's bytes.
  [[nodiscard]] Connection begin_write(
      std::vector<Descriptor> local, std::string_view remote,
      std::optional<std::chrono::nanoseconds> timeout = std::nullopt,
      std::vector<Fence> after = {});

  /// Tells a peer that its offer is not wanted, so that it does not wait for its deadline: its
  /// operation ends with `remote_failed` and the reason, of which up to 127 bytes of ASCII are
  /// sent. The returned operation is complete when the message is on its way, and fails with
  /// `offer_closed` when the offer is closed already. Throws `Error(rejected_metadata)`. Peers that
  /// do not run this library are not told.
  [[nodiscard]] Connection decline(const RdmaMetadata& remote, std::string reason,
                                   std::optional<std::chrono::nanoseconds> timeout = std::nullopt);

  /// Connects to a peer before anything is moved, so that the first transfer takes no longer than
  /// the next: makes the endpoints to it, from each engine. `remote` is the metadata of an offer of
  /// the peer, which is not used up; or only the `nixl_metadata` of an offer, or of
  /// `agent_metadata`. If the offer is of this library and open, the returned operation is complete
  /// when the peer has answered; otherwise when this side has done all that it can. Throws
  /// `Error(rejected_metadata)`; ends with `peer_unreachable`, and `timed_out` when nobody answers.
  [[nodiscard]] Connection connect(const RdmaMetadata& remote,
                                   std::optional<std::chrono::nanoseconds> timeout = std::nullopt);

  /// Does the engine's work on the calling thread, and returns whether there was any. For runtimes
  /// that poll anyway: while this is called every 20 ms or more often, the connector's own thread
  /// stays out of the way, and an operation costs hardly more than the bare NIXL calls. This call
  /// posts the transfers, so it also copies large transfers between processes of a host. It never
  /// waits for the connector's thread, and returns false while that is at work. Completions arrive
  /// as always.
  bool progress();

  /// Registers memory by hand. Blocks until NIXL has done so; throws `Error(backend)` if it
  /// refuses, `Error(invalid_argument)` for an impossible descriptor, and `Error(cancelled)` when
  /// interrupted: nothing stays registered then.
  Registration register_memory(const Descriptor& descriptor, const Interrupt& interrupt = {});

  /// A number for a connection's name; counts up from 1.
  std::uint64_t next_connection_number() noexcept;
  /// The agent's whole metadata: its connection information and every registered region. Throws
  /// `Error(cancelled)` when interrupted.
  std::string agent_metadata(const Interrupt& interrupt = {});

  /// What the connector has done and holds. Starts nothing, and never waits for longer than a
  /// millisecond: while the engine is in the middle of a large copy, its figures are from before.
  ConnectorStats stats() const;

  /// Ends all operations with `closed`, lets posted transfers come to their end for
  /// `close_grace`, and gives the agent back. Blocks meanwhile; when interrupted it returns, and
  /// goes on without this thread. Harmless when repeated and in a forked child.
  void close(const Interrupt& interrupt = {}) noexcept;
  /// Whether `close` has been called.
  bool closed() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

NIXL_CONNECT_NAMESPACE_END
