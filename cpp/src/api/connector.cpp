#include "nixl_connect/connector.h"

#include <atomic>
#include <future>
#include <utility>

#include "api/checks.h"
#include "api/registration_impl.h"
#include "claims/own_offers.h"
#include "engine/engine_loop.h"
#include "engine/interrupt.h"
#include "engine/parts.h"
#include "wire/blob.h"
#include "wire/bytes.h"
#include "wire/inflate.h"
#include "wire/notification.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// More regions than this are not a small operation.
constexpr std::size_t kFewRegions = 16;
constexpr std::size_t kMostEngines = 64;
/// An agent's name has a part of its own, a hyphen and 16 digits, behind the worker's.
constexpr std::size_t kMaxWorkerNameSize = kMaxNameSize - 17;

std::optional<std::chrono::nanoseconds> effective_timeout(
    const ConnectorOptions& options, std::optional<std::chrono::nanoseconds> timeout) {
  if (!timeout) timeout = options.default_timeout;
  if (!timeout || timeout->count() < 0) return std::nullopt;
  return std::min(*timeout, kLongestWait);
}

}  // namespace

struct Connector::Impl {
  explicit Impl(ConnectorOptions options)
      : name(std::make_shared<const std::string>(options.name)) {
    for (std::size_t i = 1; i < options.engines; ++i) {
      bulk_engines.push_back(std::make_shared<Engine>(options, name));
    }
    ports.assign(bulk_engines.begin(), bulk_engines.end());
    engine = std::make_shared<Engine>(std::move(options), name);
  }

  const std::shared_ptr<const std::string> name;
  /// Has all small operations, and what large ones send to their peers.
  std::shared_ptr<Engine> engine;
  /// Share the large operations on host memory; may be none.
  std::vector<std::shared_ptr<Engine>> bulk_engines;
  std::vector<std::shared_ptr<EnginePort>> ports;
  std::atomic<std::uint64_t> connections{0};
  std::atomic<std::size_t> next_bulk{0};

  bool is_for_bulk(const Request& request) const {
    return !bulk_engines.empty() && request.bytes >= kLargeOperation && !request.on_device;
  }

  Request make_request(OperationKind kind, const std::vector<Descriptor>& local,
                       std::optional<std::chrono::nanoseconds> timeout) {
    check_local(local);
    Request request;
    request.connector = name;
    request.number = ++connections;
    request.kind = kind;
    request.time_limit = effective_timeout(engine->options(), timeout);
    request.began = Clock::now();
    for (const Descriptor& d : local) {
      request.bytes += d.size;
      request.on_device |= d.device.kind != DeviceKind::host;
    }
    const std::size_t inline_limit = engine->options().inline_limit;
    request.few_on_host = inline_limit > 0 && local.size() <= kFewRegions && !request.on_device;
    request.small = request.few_on_host && request.bytes <= inline_limit;
    return request;
  }

  static OperationPtr make_operation(Request request, std::vector<Descriptor> local,
                                     std::vector<Fence> after) {
    const bool written = request.passive == (request.kind == OperationKind::write);
    auto operation = std::make_shared<Operation>(std::move(request));
    Flight& flight = operation->flight;
    flight.local_regions.reserve(local.size());
    for (const Descriptor& d : local) {
      flight.local_regions.push_back(Region::of(d.device, d.address, d.size));
    }
    if (written) check_apart(flight.local_regions);
    std::erase_if(after, [](const Fence& fence) { return fence == nullptr; });
    flight.fences = std::move(after);
    flight.local = std::move(local);
    return operation;
  }

  Connection offer(OperationKind kind, std::vector<Descriptor> local,
                   std::optional<std::chrono::nanoseconds> timeout, std::vector<Fence> after,
                   std::uint32_t places) {
    if (places == 0 || places > kUnlimited) {
      throw Error(ErrorCode::invalid_argument,
                  std::string(kind == OperationKind::read ? "readers" : "writers") +
                      ": expected at least one and at most " + std::to_string(kUnlimited) +
                      ", got " + std::to_string(places));
    }
    Request request = make_request(kind, local, timeout);
    request.passive = true;
    request.key = make_notification_key(engine->notice_delay());
    request.places = places;
    std::unique_ptr<OwnOffers::Place> place;
    if (const auto table = OwnOffers::of_this_process(); table != nullptr) place = table->take();
    if (place != nullptr) {
      request.key = place->location(places).appended_to(std::move(request.key));
    }
    request.offered.reserve(local.size());
    for (const Descriptor& d : local) request.offered.push_back({d.address, d.size, d.device});
    auto its_engine =
        is_for_bulk(request) ? bulk_engines[next_bulk++ % bulk_engines.size()] : engine;
    auto operation = make_operation(std::move(request), std::move(local), std::move(after));
    if (place != nullptr) {
      operation->progress.watch(place->slot(), place->generation(), places);
      operation->flight.readers.place = std::move(place);
    }
    its_engine->submit(operation);
    return {std::move(operation), std::move(its_engine)};
  }

  /// The metadata's zlib stream is apart where it came as bytes.
  Connection begin(OperationKind kind, const RdmaMetadata& remote, std::string_view stream,
                   std::vector<Descriptor> local, std::optional<std::chrono::nanoseconds> timeout,
                   std::vector<Fence> after) {
    check_for(kind, remote, local.size());
    auto its_engine = engine;
    Request request = make_request(kind, local, timeout);
    auto blob = Blob::parse(stream.empty() ? decode_nixl_metadata(remote.nixl_metadata)
                                           : inflate_all(stream));
    auto offer = RemoteOffer::resolve(std::move(blob), its_engine->options().backend,
                                      remote_regions(remote));
    check_sizes(offer.regions, local);
    const bool to_host = all_on_host(offer.regions);
    request.remote_name = offer.blob->agent();
    request.key = remote.notification_key;
    request.small = request.small && to_host;
    auto operation = make_operation(std::move(request), std::move(local), std::move(after));
    operation->flight.remote = std::move(offer);
    if (to_host && is_for_bulk(operation->request)) {
      cut_for_engines(*operation, ports, next_bulk++);
    } else {
      cut_by_type(*operation, its_engine);
    }
    its_engine->submit(operation);
    return {std::move(operation), std::move(its_engine)};
  }

  Connection begin_of_bytes(OperationKind kind, std::string_view bytes,
                            std::vector<Descriptor> local,
                            std::optional<std::chrono::nanoseconds> timeout,
                            std::vector<Fence> after) {
    std::string stream;
    const RdmaMetadata rest = metadata_from_bytes(bytes, stream);
    return begin(kind, rest, stream, std::move(local), timeout, std::move(after));
  }

  Connection decline(const RdmaMetadata& remote, std::string reason,
                     std::optional<std::chrono::nanoseconds> timeout) {
    check_key(remote);
    // A notice ends its reason with a slash.
    for (char& c : reason) {
      if (c == '/' || c < ' ' || c > '~') c = '_';
    }
    auto operation = make_message(remote, timeout, [&](Request& request) {
      request.declined = reason.empty() ? "declined" : std::move(reason);
    });
    engine->submit(operation);
    return {std::move(operation), engine};
  }

  Connection connect(const RdmaMetadata& remote, std::optional<std::chrono::nanoseconds> timeout) {
    const auto connects = [](Request& request) { request.connects = true; };
    // The key of one region is loaded too; without RDMA that is the key of all.
    RdmaMetadata one = remote;
    one.descriptors.resize(std::min<std::size_t>(1, remote.descriptors.size()));
    auto operation = make_message(one, timeout, connects);
    for (const auto& port : ports) {
      auto part = std::make_shared<Operation>(operation->request);
      part->flight.remote = operation->flight.remote;
      operation->flight.parts.push_back({std::move(part), port});
    }
    engine->submit(operation);
    return {std::move(operation), engine};
  }

  /// An operation that moves nothing.
  template <typename Fill>
  OperationPtr make_message(const RdmaMetadata& remote,
                            std::optional<std::chrono::nanoseconds> timeout, Fill fill) {
    Request request;
    request.connector = name;
    request.number = ++connections;
    request.kind = remote.operation_kind;
    request.time_limit = effective_timeout(engine->options(), timeout);
    request.began = Clock::now();
    fill(request);
    auto offer = RemoteOffer::resolve(
        Blob::parse(decode_nixl_metadata(remote.nixl_metadata)), engine->options().backend,
        request.connects ? remote_regions(remote) : std::vector<Region>());
    request.remote_name = offer.blob->agent();
    request.key = remote.notification_key;
    auto operation = std::make_shared<Operation>(std::move(request));
    operation->flight.remote = std::move(offer);
    return operation;
  }

  /// Has an engine's thread do something, and waits for its result.
  template <typename Work>
  static auto ask(const std::shared_ptr<Engine>& of, const Interrupt& interrupt, Work work) {
    using Result = decltype(work(std::declval<EngineLoop&>()));
    if (Engine::is_engine_thread()) {
      throw Error(ErrorCode::invalid_state,
                  "called by an owner of memory while an engine's thread releases it, which cannot "
                  "wait for itself: register memory and ask for metadata on another thread");
    }
    of->wait_started(interrupt);
    auto promise = std::make_shared<std::promise<Result>>();
    auto result = promise->get_future();
    const bool accepted = of->run([promise, work = std::move(work)](EngineLoop& loop) {
      try {
        promise->set_value(work(loop));
      } catch (const std::exception& error) {
        promise->set_exception(std::make_exception_ptr(Error(ErrorCode::backend, error.what())));
      }
    });
    promise.reset();
    try {
      while (accepted && result.wait_for(kInterruptCheck) != std::future_status::ready) {
        throw_if(interrupt);
      }
      if (accepted) return result.get();
    } catch (const std::future_error&) {
      // The engine has failed before it came to this.
    }
    throw Error(ErrorCode::closed, "the connector is closed");
  }
};

Connector::Connector(ConnectorOptions options) {
  if (options.name.empty() || options.name.find('\0') != std::string::npos) {
    throw Error(ErrorCode::invalid_argument,
                "name: expected text without null characters, got " +
                    std::string(options.name.empty() ? "none" : "one"));
  }
  if (options.name.size() > kMaxWorkerNameSize) {
    throw Error(ErrorCode::invalid_argument,
                "name: expected at most " + std::to_string(kMaxWorkerNameSize) +
                    " bytes, which peers accept, got " + std::to_string(options.name.size()));
  }
  if (options.engines == 0 || options.engines > kMostEngines) {
    throw Error(ErrorCode::invalid_argument, "engines: expected 1 to " +
                                                 std::to_string(kMostEngines) + ", got " +
                                                 std::to_string(options.engines));
  }
  impl_ = std::make_unique<Impl>(std::move(options));
}

Connector::~Connector() { close(); }

const std::string& Connector::name() const noexcept { return *impl_->name; }

std::string Connector::nixl_library() const { return impl_->engine->startup().nixl_library(); }

void Connector::start() {
  impl_->engine->start();
  for (const auto& bulk_engine : impl_->bulk_engines) bulk_engine->start();
}

bool Connector::notify_started(std::shared_ptr<CompletionQueue> queue, std::uint64_t token) {
  return impl_->engine->startup().notify(std::move(queue), token);
}

bool Connector::check_started() const { return impl_->engine->startup().check(); }

bool Connector::started() const noexcept { return impl_->engine->startup().started(); }

void Connector::wait_started(const Interrupt& interrupt) { impl_->engine->wait_started(interrupt); }

Connection Connector::create_readable(std::vector<Descriptor> local,
                                      std::optional<std::chrono::nanoseconds> timeout,
                                      std::vector<Fence> after, std::uint32_t readers) {
  return impl_->offer(OperationKind::read, std::move(local), timeout, std::move(after), readers);
}

Connection Connector::create_writable(std::vector<Descriptor> local,
                                      std::optional<std::chrono::nanoseconds> timeout,
                                      std::vector<Fence> after, std::uint32_t writers) {
  return impl_->offer(OperationKind::write, std::move(local), timeout, std::move(after), writers);
}

Connection Connector::begin_read(const RdmaMetadata& remote, std::vector<Descriptor> local,
                                 std::optional<std::chrono::nanoseconds> timeout,
                                 std::vector<Fence> after) {
  return impl_->begin(OperationKind::read, remote, {}, std::move(local), timeout, std::move(after));
}

Connection Connector::begin_read(std::string_view remote, std::vector<Descriptor> local,
                                 std::optional<std::chrono::nanoseconds> timeout,
                                 std::vector<Fence> after) {
  return impl_->begin_of_bytes(OperationKind::read, remote, std::move(local), timeout,
                               std::move(after));
}

Connection Connector::begin_write(std::vector<Descriptor> local, const RdmaMetadata& remote,
                                  std::optional<std::chrono::nanoseconds> timeout,
                                  std::vector<Fence> after) {
  return impl_->begin(OperationKind::write, remote, {}, std::move(local), timeout,
                      std::move(after));
}

Connection Connector::begin_write(std::vector<Descriptor> local, std::string_view remote,
                                  std::optional<std::chrono::nanoseconds> timeout,
                                  std::vector<Fence> after) {
  return impl_->begin_of_bytes(OperationKind::write, remote, std::move(local), timeout,
                               std::move(after));
}

Connection Connector::decline(const RdmaMetadata& remote, std::string reason,
                              std::optional<std::chrono::nanoseconds> timeout) {
  return impl_->decline(remote, std::move(reason), timeout);
}

Connection Connector::connect(const RdmaMetadata& remote,
                              std::optional<std::chrono::nanoseconds> timeout) {
  return impl_->connect(remote, timeout);
}

bool Connector::progress() {
  // The owner of some memory that is released may have had this connector.
  const auto engine = impl_->engine;
  return engine->progress();
}

Registration Connector::register_memory(const Descriptor& descriptor, const Interrupt& interrupt) {
  check_local({descriptor});
  const Region region = Region::of(descriptor.device, descriptor.address, descriptor.size);
  const auto acquire = [region](EngineLoop& loop) { return loop.acquire({region}); };
  Registration registration;
  registration.impl_ = std::make_unique<Registration::Impl>();
  auto& leases = *registration.impl_;
  leases.region = std::make_shared<ManualRegistration>(descriptor.owner);
  leases.of_engines.emplace_back(impl_->engine, Impl::ask(impl_->engine, interrupt, acquire));
  for (const auto& bulk_engine : impl_->bulk_engines) {
    leases.of_engines.emplace_back(bulk_engine, Impl::ask(bulk_engine, interrupt, acquire));
  }
  return registration;
}

std::uint64_t Connector::next_connection_number() noexcept { return ++impl_->connections; }

std::string Connector::agent_metadata(const Interrupt& interrupt) {
  return Impl::ask(impl_->engine, interrupt,
                   [](EngineLoop& loop) { return loop.agent().full_metadata(); });
}

ConnectorStats Connector::stats() const {
  ConnectorStats stats;
  impl_->engine->add_stats(stats);
  for (const auto& bulk_engine : impl_->bulk_engines) bulk_engine->add_stats(stats);
  return stats;
}

void Connector::close(const Interrupt& interrupt) noexcept {
  // The parts of operations end before these do.
  for (const auto& bulk_engine : impl_->bulk_engines) bulk_engine->stop();
  for (const auto& bulk_engine : impl_->bulk_engines) bulk_engine->close(interrupt);
  impl_->engine->close(interrupt);
}

bool Connector::closed() const noexcept { return impl_->engine->startup().closed(); }

NIXL_CONNECT_NAMESPACE_END
