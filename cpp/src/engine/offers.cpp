#include "engine/offers.h"

#include <algorithm>
#include <utility>

#include "wire/coverage.h"
#include "wire/notification.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// What peers write, made fit to be shown.
std::string printable(std::string_view text) {
  std::string shown(text);
  for (char& c : shown) {
    if (c < ' ' || c > '~') c = '?';
  }
  return shown;
}

}  // namespace

Offers::Offers(Agent& agent, MemoryRegistry& registry) : agent_(agent), registry_(registry) {
  try {
    connections_ = Blob::parse(agent_.partial_metadata({}));
  } catch (const Error&) {
    // What it writes whole is good for its own kind.
  }
  encoder_ = std::make_shared<MetadataEncoder>(connections_ ? connections_->head() : "");
}

void Offers::open(const OperationPtr& operation) {
  Flight& flight = operation->flight;
  flight.lease = registry_.acquire(flight.local_regions);
  std::string blob = blob_of(registry_.covering(flight.local_regions));
  open_.emplace(operation->request.key, operation);
  if (!operation->request.small) ++large_;
  flight.phase = Phase::offered;
  operation->progress.make_ready(std::move(blob), encoder_);
}

bool Offers::must_linger(Operation& operation, bool linger) {
  if (!linger || !operation.progress.metadata_taken()) return false;
  operation.flight.phase = Phase::lingering;
  return true;
}

void Offers::remove(Operation& operation) {
  const Phase phase = operation.flight.phase;
  if (phase != Phase::offered && phase != Phase::lingering) return;
  if (const auto it = open_.find(operation.request.key); it != open_.end()) take(it);
}

void Offers::take(std::string_view sender, std::string_view message, std::vector<Event>& events) {
  const Notice notice = Notice::read(message);
  for (const std::string_view key : notice.keys) {
    const auto it = find(key);
    if (it == open_.end()) {
      ++unknown_;
      continue;
    }
    ++matched_;
    OperationPtr operation = take(it);
    Outcome outcome = Outcome::complete();
    if (notice.failed) {
      outcome =
          Outcome::failed({ErrorCode::remote_failed,
                           operation->request.describe() + ": the peer '" + printable(sender) +
                               "' reports '" + printable(notice.reason) + "'"});
    }
    events.push_back({std::move(operation), std::move(outcome)});
  }
}

bool Offers::allows(std::string_view key, OperationKind kind, const std::vector<Region>& regions) {
  const auto it = find(key);
  if (it == open_.end() || it->second->request.kind != kind) return false;
  const auto covering = smallest_covering(it->second->flight.local_regions, regions);
  return std::find(covering.begin(), covering.end(), kNotCovered) == covering.end();
}

Offers::Open::iterator Offers::find(std::string_view key) {
  const auto it = open_.find(key);
  // The caller may have added to the key, as a signature does.
  return it != open_.end() ? it : open_.find(bare_key(key));
}

OperationPtr Offers::take(Open::iterator at) {
  // It goes after its entry, whose key it holds.
  OperationPtr operation = std::move(at->second);
  open_.erase(at);
  if (!operation->request.small) --large_;
  return operation;
}

std::string Offers::blob_of(const std::vector<Region>& regions) {
  if (connections_ == nullptr) return agent_.full_metadata();
  std::vector<std::string> partial;
  for_each_type(regions, [&](const std::vector<Region>& of_one_type) {
    partial.push_back(agent_.partial_metadata(of_one_type));
  });
  try {
    return Blob::join(*connections_, partial);
  } catch (const Error&) {
    return agent_.full_metadata();
  }
}

NIXL_CONNECT_NAMESPACE_END
