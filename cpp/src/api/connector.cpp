#include "nixl_connect/connector.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <map>

#include "cuda/cuda_memory.h"
#include "engine/engine.h"
#include "wire/notification.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// More regions than this are not a small operation.
constexpr std::size_t kFewRegions = 16;
/// From so many bytes on an operation is for the copiers, in parts of at least that.
constexpr std::size_t kLarge = std::size_t{1} << 20;
constexpr std::size_t kMostEngines = 64;
/// What is left to an operation itself when the rest has been shared out.
constexpr std::size_t kTail = 4096;

std::string at(const char* argument, std::size_t index) {
  return std::string(argument) + "[" + std::to_string(index) + "]";
}

void check_local(const std::vector<Descriptor>& local) {
  if (local.empty()) {
    throw Error(ErrorCode::invalid_argument,
                "local_descriptors: expected at least one descriptor, got none");
  }
  for (std::size_t i = 0; i < local.size(); ++i) {
    const Descriptor& d = local[i];
    const auto where = [&] { return at("local_descriptors", i); };
    if (d.address == 0) {
      throw Error(ErrorCode::invalid_argument, where() + ": expected an address, got null");
    }
    if (d.size == 0 || d.address + d.size < d.address) {
      throw Error(ErrorCode::invalid_argument, where() +
                                                   ": expected a size of at least one byte, "
                                                   "within memory, got " +
                                                   std::to_string(d.size));
    }
    if (d.device.kind == DeviceKind::unspecified) {
      throw Error(ErrorCode::invalid_argument, where() + ": expected a device, got none");
    }
  }
  check_named_cuda_memory(local, "local_descriptors");
}

const char* kind_name(OperationKind kind) {
  return kind == OperationKind::read ? "READ" : kind == OperationKind::write ? "WRITE" : "none";
}

std::size_t bytes_in(const std::vector<Region>& regions) {
  std::size_t bytes = 0;
  for (const Region& region : regions) bytes += region.size;
  return bytes;
}

/// The remote's regions, as far as they can be checked by themselves.
std::vector<Region> remote_regions(const RdmaMetadata& remote) {
  std::vector<Region> regions;
  regions.reserve(remote.descriptors.size());
  for (std::size_t i = 0; i < remote.descriptors.size(); ++i) {
    const RemoteDescriptor& d = remote.descriptors[i];
    const auto where = [&] { return at("remote_metadata.descriptors", i); };
    if (d.address == 0 || d.size == 0 || d.address + d.size < d.address) {
      throw Error(ErrorCode::rejected_metadata, where() + ": impossible region");
    }
    regions.push_back(Region::of(d.device, d.address, d.size));
  }
  return regions;
}

void check_sizes(const std::vector<Region>& remote, const std::vector<Descriptor>& local) {
  for (std::size_t i = 0; i < remote.size(); ++i) {
    if (remote[i].size != local[i].size) {
      throw Error(ErrorCode::invalid_argument, at("local_descriptors", i) +
                                                   ": expected the remote's size of " +
                                                   std::to_string(remote[i].size) + " bytes, got " +
                                                   std::to_string(local[i].size));
    }
  }
}

std::optional<std::chrono::nanoseconds> effective_timeout(
    const ConnectorOptions& options, std::optional<std::chrono::nanoseconds> timeout) {
  if (!timeout) timeout = options.default_timeout;
  if (!timeout || timeout->count() < 0) return std::nullopt;
  return std::min(*timeout, kLongestWait);
}

}  // namespace

struct Connector::Impl {
  /// Has all small operations, and what large ones send to their peers.
  std::shared_ptr<Engine> engine;
  /// Share the large operations on host memory; may be none.
  std::vector<std::shared_ptr<Engine>> copiers;
  std::atomic<std::uint64_t> connections{0};
  std::atomic<std::size_t> next_copier{0};

  bool for_copiers(const ConnectionState& state) const {
    return !copiers.empty() && state.bytes >= kLarge && !state.on_device &&
           (state.passive || all_on_host(state.remote.regions));
  }

  static void add_part(ConnectionState& whole, std::shared_ptr<Engine> its_engine,
                       std::vector<Region> local_regions, RemoteOffer remote) {
    auto part = std::make_shared<ConnectionState>();
    part->engine = std::move(its_engine);
    part->number = whole.number;
    part->kind = whole.kind;
    part->remote_name = whole.remote_name;
    part->began = whole.began;
    part->local = whole.local;
    part->local_regions = std::move(local_regions);
    part->on_device = whole.on_device;
    part->remote = std::move(remote);
    whole.parts.push_back(std::move(part));
  }

  /// One of NIXL's transfers is from one type of memory to one other. Of a list with several such
  /// pairings each becomes a part, but for the one with the fewest bytes, which the whole is left.
  static void split_by_type(ConnectionState& whole) {
    if (of_one_type(whole.local_regions) && of_one_type(whole.remote.regions)) return;
    struct Pairing {
      std::vector<std::size_t> indices;
      std::vector<Region> local;
      std::size_t bytes = 0;
    };
    std::map<std::pair<MemoryType, MemoryType>, Pairing> by_types;
    for (std::size_t i = 0; i < whole.local_regions.size(); ++i) {
      const Region& local = whole.local_regions[i];
      Pairing& pairing = by_types[{local.type, whole.remote.regions[i].type}];
      pairing.indices.push_back(i);
      pairing.local.push_back(local);
      pairing.bytes += local.size;
    }
    const auto least = std::min_element(
        by_types.begin(), by_types.end(),
        [](const auto& a, const auto& b) { return a.second.bytes < b.second.bytes; });
    for (auto& entry : by_types) {
      Pairing& pairing = entry.second;
      if (&entry == &*least) continue;
      add_part(whole, whole.engine, std::move(pairing.local), whole.remote.pick(pairing.indices));
    }
    whole.remote = whole.remote.pick(least->second.indices);
    whole.local_regions = std::move(least->second.local);
  }

  /// Leaves the whole its last bytes, and shares the others out.
  void share_out(const std::shared_ptr<ConnectionState>& whole) {
    const std::size_t bytes = whole->bytes;
    const std::size_t shared = bytes - kTail;
    const std::size_t count = std::min(copiers.size(), bytes / kLarge);
    const std::size_t first = next_copier++;
    const auto boundary = [&](std::size_t part) {
      return part == count ? shared : shared / count * part / kTail * kTail;
    };
    for (std::size_t i = 0; i < count; ++i) {
      add_part(*whole, copiers[(first + i) % copiers.size()],
               cut_regions(whole->local_regions, boundary(i), boundary(i + 1)),
               whole->remote.cut(boundary(i), boundary(i + 1)));
    }
    whole->local_regions = cut_regions(whole->local_regions, shared, bytes);
    whole->remote = whole->remote.cut(shared, bytes);
  }

  std::shared_ptr<ConnectionState> make_state(OperationKind kind, std::vector<Descriptor> local,
                                              std::optional<std::chrono::nanoseconds> timeout,
                                              std::vector<Fence> after) {
    check_local(local);
    auto state = std::make_shared<ConnectionState>();
    state->engine = engine;
    state->number = ++connections;
    state->kind = kind;
    state->time_limit = effective_timeout(engine->options(), timeout);
    state->began = Clock::now();
    state->local_regions.reserve(local.size());
    for (const Descriptor& d : local) {
      state->local_regions.push_back(Region::of(d.device, d.address, d.size));
    }
    state->bytes = bytes_in(state->local_regions);
    state->on_device = !all_on_host(state->local_regions);
    state->small = local.size() <= kFewRegions && !state->on_device &&
                   state->bytes <= engine->options().inline_limit;
    std::erase_if(after, [](const Fence& fence) { return fence == nullptr; });
    state->after = std::move(after);
    state->local = std::move(local);
    return state;
  }

  Connection offer(OperationKind kind, std::vector<Descriptor> local,
                   std::optional<std::chrono::nanoseconds> timeout, std::vector<Fence> after) {
    auto state = make_state(kind, std::move(local), timeout, std::move(after));
    state->passive = true;
    state->key = make_notification_key(engine->patience());
    for (const Descriptor& d : state->local) {
      state->offered.push_back({d.address, d.size, d.device});
    }
    if (for_copiers(*state)) state->engine = copiers[next_copier++ % copiers.size()];
    state->engine->attend(state);
    return Connection(std::move(state));
  }

  Connection begin(OperationKind kind, const RdmaMetadata& remote, std::vector<Descriptor> local,
                   std::optional<std::chrono::nanoseconds> timeout, std::vector<Fence> after) {
    if (remote.operation_kind != kind) {
      throw Error(ErrorCode::rejected_metadata,
                  std::string("remote_metadata.operation_kind: expected ") + kind_name(kind) +
                      ", got " + kind_name(remote.operation_kind));
    }
    if (remote.notification_key.empty()) {
      throw Error(ErrorCode::rejected_metadata, "remote_metadata.notification_key: empty");
    }
    if (remote.descriptors.size() != local.size()) {
      throw Error(ErrorCode::invalid_argument,
                  "local_descriptors: expected " + std::to_string(remote.descriptors.size()) +
                      " descriptors, as many as the remote's, got " + std::to_string(local.size()));
    }
    auto state = make_state(kind, std::move(local), timeout, std::move(after));
    state->remote = RemoteOffer::resolve(Blob::parse(decode_nixl_metadata(remote.nixl_metadata)),
                                         engine->options().backend, remote_regions(remote));
    check_sizes(state->remote.regions, state->local);
    state->remote_name = state->remote.blob->agent();
    state->key = remote.notification_key;
    state->small = state->small && all_on_host(state->remote.regions);
    if (for_copiers(*state)) {
      share_out(state);
    } else {
      split_by_type(*state);
    }
    engine->attend(state);
    return Connection(std::move(state));
  }

  /// Has an engine's thread do something, and waits for its result.
  template <typename Work>
  static auto ask(const std::shared_ptr<Engine>& of, Work work) {
    using Result = decltype(work(std::declval<EngineLoop&>()));
    of->wait_started();
    auto promise = std::make_shared<std::promise<Result>>();
    auto result = promise->get_future();
    const bool accepted = of->run([promise, work = std::move(work)](EngineLoop& loop) {
      try {
        promise->set_value(work(loop));
      } catch (const std::exception& error) {
        promise->set_exception(std::make_exception_ptr(Error(ErrorCode::backend, error.what())));
      }
    });
    if (!accepted) throw Error(ErrorCode::closed, "the connector is closed");
    return result.get();
  }
};

Connector::Connector(ConnectorOptions options) : impl_(std::make_unique<Impl>()) {
  if (options.name.empty() || options.name.find('\0') != std::string::npos) {
    throw Error(ErrorCode::invalid_argument, "name: expected text, got none");
  }
  if (options.engines == 0 || options.engines > kMostEngines) {
    throw Error(ErrorCode::invalid_argument, "engines: expected 1 to " +
                                                 std::to_string(kMostEngines) + ", got " +
                                                 std::to_string(options.engines));
  }
  for (std::size_t i = 1; i < options.engines; ++i) {
    impl_->copiers.push_back(std::make_shared<Engine>(options));
  }
  impl_->engine = std::make_shared<Engine>(std::move(options));
}

Connector::~Connector() {
  close();
  for (auto& copier : impl_->copiers) {
    if (copier->in_forked_child()) leak(std::move(copier));
  }
  if (impl_->engine->in_forked_child()) leak(std::move(impl_->engine));
}

const std::string& Connector::name() const noexcept { return impl_->engine->connector_name(); }

std::string Connector::nixl_library() const { return impl_->engine->nixl_library(); }

void Connector::start() {
  impl_->engine->start();
  for (const auto& copier : impl_->copiers) copier->start();
}

bool Connector::notify_started(std::shared_ptr<CompletionQueue> queue, std::uint64_t token) {
  return impl_->engine->notify_started(std::move(queue), token);
}

bool Connector::check_started() const { return impl_->engine->check_started(); }

void Connector::wait_started() { impl_->engine->wait_started(); }

Connection Connector::create_readable(std::vector<Descriptor> local,
                                      std::optional<std::chrono::nanoseconds> timeout,
                                      std::vector<Fence> after) {
  return impl_->offer(OperationKind::read, std::move(local), timeout, std::move(after));
}

Connection Connector::create_writable(std::vector<Descriptor> local,
                                      std::optional<std::chrono::nanoseconds> timeout,
                                      std::vector<Fence> after) {
  return impl_->offer(OperationKind::write, std::move(local), timeout, std::move(after));
}

Connection Connector::begin_read(const RdmaMetadata& remote, std::vector<Descriptor> local,
                                 std::optional<std::chrono::nanoseconds> timeout,
                                 std::vector<Fence> after) {
  return impl_->begin(OperationKind::read, remote, std::move(local), timeout, std::move(after));
}

Connection Connector::begin_write(std::vector<Descriptor> local, const RdmaMetadata& remote,
                                  std::optional<std::chrono::nanoseconds> timeout,
                                  std::vector<Fence> after) {
  return impl_->begin(OperationKind::write, remote, std::move(local), timeout, std::move(after));
}

bool Connector::progress() { return impl_->engine->progress(); }

Registration Connector::register_memory(const Descriptor& descriptor) {
  check_local({descriptor});
  const Region region = Region::of(descriptor.device, descriptor.address, descriptor.size);
  const auto acquire = [region](EngineLoop& loop) { return loop.hold({region}); };
  auto held = std::make_shared<HeldRegion>();
  held->owner = descriptor.owner;
  Registration registration(held);
  held->leases.emplace_back(impl_->engine, Impl::ask(impl_->engine, acquire));
  for (const auto& copier : impl_->copiers) {
    held->leases.emplace_back(copier, Impl::ask(copier, acquire));
  }
  return registration;
}

std::uint64_t Connector::next_connection_number() noexcept { return ++impl_->connections; }

std::string Connector::agent_metadata() {
  return Impl::ask(impl_->engine, [](EngineLoop& loop) { return loop.agent().full_metadata(); });
}

ConnectorStats Connector::stats() const {
  ConnectorStats stats;
  impl_->engine->add_stats(stats);
  for (const auto& copier : impl_->copiers) copier->add_stats(stats);
  return stats;
}

void Connector::close() noexcept {
  // The parts of operations end before these do.
  for (const auto& copier : impl_->copiers) copier->stop();
  for (const auto& copier : impl_->copiers) copier->close();
  impl_->engine->close();
}

bool Connector::closed() const noexcept { return impl_->engine->closed(); }

Registration::Registration() noexcept = default;
Registration::Registration(std::shared_ptr<HeldRegion> region) noexcept
    : region_(std::move(region)) {}
Registration::Registration(Registration&&) noexcept = default;

Registration& Registration::operator=(Registration&& other) noexcept {
  std::swap(region_, other.region_);
  return *this;
}

Registration::~Registration() { reset(); }

void Registration::reset() noexcept {
  if (region_ == nullptr) return;
  try {
    // The owner goes with the last task, after the deregistration.
    for (auto& [engine, held] : region_->leases) {
      engine->run([region = region_, lease = std::move(held)](EngineLoop& loop) {
        loop.registry().release(lease);
      });
    }
  } catch (const std::exception&) {
    // Out of memory: the region stays registered until the connector closes.
  }
  region_.reset();
}

NIXL_CONNECT_NAMESPACE_END
