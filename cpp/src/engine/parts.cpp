#include "engine/parts.h"

#include <algorithm>
#include <map>
#include <utility>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// What is left to an operation itself when the rest has been cut off.
constexpr std::size_t kTail = 4096;

void add_part(Operation& whole, std::shared_ptr<EnginePort> engine,
              std::vector<Region> local_regions, RemoteOffer remote) {
  Request request;
  request.connector = whole.request.connector;
  request.number = whole.request.number;
  request.kind = whole.request.kind;
  request.remote_name = whole.request.remote_name;
  request.began = whole.request.began;
  request.on_device = whole.request.on_device;
  auto part = std::make_shared<Operation>(std::move(request));
  part->flight.local = whole.flight.local;
  part->flight.local_regions = std::move(local_regions);
  part->flight.remote = std::move(remote);
  whole.flight.parts.push_back({std::move(part), std::move(engine)});
}

}  // namespace

void cut_by_type(Operation& whole, const std::shared_ptr<EnginePort>& engine) {
  Flight& flight = whole.flight;
  if (of_one_type(flight.local_regions) && of_one_type(flight.remote.regions)) return;
  struct Pairing {
    std::vector<std::size_t> indices;
    std::vector<Region> local;
    std::size_t bytes = 0;
  };
  std::map<std::pair<MemoryType, MemoryType>, Pairing> by_types;
  for (std::size_t i = 0; i < flight.local_regions.size(); ++i) {
    const Region& local = flight.local_regions[i];
    Pairing& pairing = by_types[{local.type, flight.remote.regions[i].type}];
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
    add_part(whole, engine, std::move(pairing.local), flight.remote.pick(pairing.indices));
  }
  flight.remote = flight.remote.pick(least->second.indices);
  flight.local_regions = std::move(least->second.local);
}

void cut_for_engines(Operation& whole, const std::vector<std::shared_ptr<EnginePort>>& engines,
                     std::size_t first) {
  Flight& flight = whole.flight;
  const std::size_t bytes = whole.request.bytes;
  const std::size_t shared = bytes - kTail;
  const std::size_t count = std::min(engines.size(), bytes / kLargeOperation);
  const auto boundary = [&](std::size_t part) {
    return part == count ? shared : shared / count * part / kTail * kTail;
  };
  for (std::size_t i = 0; i < count; ++i) {
    add_part(whole, engines[(first + i) % engines.size()],
             cut_regions(flight.local_regions, boundary(i), boundary(i + 1)),
             flight.remote.cut(boundary(i), boundary(i + 1)));
  }
  flight.local_regions = cut_regions(flight.local_regions, shared, bytes);
  flight.remote = flight.remote.cut(shared, bytes);
}

std::vector<OperationPtr> Parts::send(const OperationPtr& whole,
                                      const std::shared_ptr<EnginePort>& home) {
  Flight& flight = whole->flight;
  flight.phase = Phase::split;
  // Bytes of the parts may be under way when the whole fails.
  flight.posted = true;
  flight.parts_left = flight.parts.size();
  split_.insert(whole);
  std::vector<OperationPtr> refused;
  for (const auto& [part, engine] : flight.parts) {
    if (whole->progress.ended()) part->progress.finish(OperationStatus::cancelled);
    part->flight.whole = {whole, engine == home ? nullptr : home};
    try {
      engine->submit(part);
    } catch (const Error& error) {
      part->flight.whole = {};
      part->progress.finish(OperationStatus::errored, Failure{error.code(), error.what()});
      refused.push_back(part);
    }
  }
  whole->progress.make_in_progress();
  return refused;
}

void Parts::cancel(const Operation& whole) {
  for (const auto& [part, engine] : whole.flight.parts) {
    if (part->progress.finish(OperationStatus::cancelled)) engine->submit_if_open(part);
  }
}

bool Parts::ended(const OperationPtr& whole, std::optional<Failure> failure) {
  Flight& flight = whole->flight;
  if (failure) {
    whole->progress.finish(OperationStatus::errored, std::move(failure));
    cancel(*whole);
  }
  if (--flight.parts_left > 0) return false;
  split_.erase(whole);
  flight.parts.clear();
  // What is left follows, or a notice to the peer that nothing comes.
  flight.phase = Phase::fresh;
  return true;
}

NIXL_CONNECT_NAMESPACE_END
