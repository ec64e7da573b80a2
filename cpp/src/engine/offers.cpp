#include "engine/offers.h"

#include <algorithm>
#include <array>
#include <utility>

#include "engine/mapped_regions.h"
#include "wire/coverage.h"
#include "wire/notification.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// For so long bytes of a transfer that was broken off may still arrive, from a socket of this
/// host.
constexpr std::chrono::milliseconds kQuietTime{250};
/// How often it is looked for what claimants have said, at most; for those that have died, and for
/// notices that were lost.
constexpr std::chrono::milliseconds kReviewPause{1};
constexpr int kReviewFraction = 10;
constexpr std::chrono::milliseconds kThoroughReviewPause{100};
/// One to whom a place was granted says once a second that its transfer goes on.
constexpr std::chrono::seconds kLongestSilence{10};

/// Whether each registration has a remote key of its own, as with RDMA.
bool have_keys_of_their_own(Agent& agent) {
  static constexpr std::size_t kPage = 4096;
  alignas(kPage) static std::array<char, 2 * kPage> pages;
  std::array<std::string, 2> keys;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::vector<Region> page{
        {kDram, 0, reinterpret_cast<std::uintptr_t>(pages.data()) + i * kPage, kPage}};
    try {
      agent.register_memory(page);
      const auto blob = Blob::parse(agent.partial_metadata(page));
      agent.deregister_memory(page);
      keys[i] = blob->sections().at(0).elements.at(0).remote_key;
    } catch (const std::exception&) {
      // Nothing is known of a form that this library does not know.
      return false;
    }
  }
  return keys[0] != keys[1];
}

/// Why nobody could begin with an offer whose metadata takes so many bytes.
Failure too_large(const Operation& operation, const std::string& bytes) {
  return {ErrorCode::invalid_argument,
          operation.request.describe() +
              ": local_descriptors: expected pieces whose metadata takes "
              "at most " +
              std::to_string(kMaxBlobSize) + " bytes, which is what peers accept, got " +
              std::to_string(operation.flight.local_regions.size()) + " pieces that take " + bytes +
              ": offer fewer at once, or register the memory that they are parts of by hand, as "
              "one piece"};
}

/// What peers write, made fit to be shown.
std::string printable(std::string_view text) {
  std::string shown(text);
  for (char& c : shown) {
    if (c < ' ' || c > '~') c = '?';
  }
  return shown;
}

}  // namespace

Offers::Offers(Agent& agent, MemoryRegistry& registry, std::optional<bool> foreign_peers,
               std::size_t max_linger_bytes)
    : agent_(agent),
      registry_(registry),
      table_(OwnOffers::of_this_process()),
      foreign_peers_(foreign_peers),
      max_linger_bytes_(max_linger_bytes) {
  try {
    connections_ = Blob::parse(agent_.partial_metadata({}));
  } catch (const Error&) {
    // What it writes whole is good for its own kind.
  }
  encoder_ = std::make_shared<MetadataEncoder>(connections_ ? connections_->head() : "");
}

std::optional<Failure> Offers::open(const OperationPtr& operation) {
  Flight& flight = operation->flight;
  const auto& regions = flight.local_regions;
  // To register so many takes seconds: what is known before is said before.
  if (regions.size() > kMaxBlobSize / Blob::kLeastElementSize) {
    const std::size_t count = registry_.least_covering(regions);
    const std::size_t least = count * Blob::kLeastElementSize;
    if (least > kMaxBlobSize) return too_large(*operation, "at least " + std::to_string(least));
  }
  flight.lease = registry_.acquire(regions);
  std::string blob = blob_of(registry_.covering(regions));
  if (blob.size() > kMaxBlobSize) return too_large(*operation, std::to_string(blob.size()));
  open_.emplace(operation->request.key, operation);
  if (!operation->request.small) ++large_;
  flight.phase = Phase::offered;
  if (const auto& place = flight.readers.place; place != nullptr) {
    place->slot().open(place->generation(), operation->request.places);
  }
  operation->progress.make_ready(std::move(blob), encoder_);
  return std::nullopt;
}

bool Offers::withdraw(const OperationPtr& operation, Clock::time_point now,
                      Clock::duration duration) {
  Readers& readers = operation->flight.readers;
  if (readers.place != nullptr) readers.place->slot().close();
  if (!operation->progress.metadata_taken()) return false;
  if (duration.count() > 0 && readers.place != nullptr) {
    const bool used_up = readers.place->slot().places_left() == 0;
    if (used_up || !peers_may_not_claim()) duration = {};
  }
  if (duration.count() <= 0 && now >= readers.quiet_at && !is_in_use(*operation)) return false;
  linger(operation, now, duration);
  return true;
}

void Offers::linger(const OperationPtr& operation, Clock::time_point now,
                    Clock::duration duration) {
  Flight& flight = operation->flight;
  if (flight.readers.place != nullptr) flight.readers.place->slot().close();
  flight.phase = Phase::lingering;
  flight.readers.linger_until = now + duration;
  flight.readers.linger_number = ++lingered_;
  lingering_.emplace(lingered_, operation);
  lingering_bytes_ += operation->request.bytes;
  // What only may be in use goes first, the oldest before others.
  std::size_t bytes = lingering_bytes_;
  for (auto it = lingering_.begin(); it != lingering_.end() && bytes > max_linger_bytes_; ++it) {
    it->second->flight.readers.linger_until = now;
    bytes -= it->second->request.bytes;
  }
}

void Offers::remove(Operation& operation) {
  Flight& flight = operation.flight;
  if (flight.phase != Phase::offered && flight.phase != Phase::lingering) return;
  if (flight.readers.place != nullptr) flight.readers.place->slot().close();
  if (lingering_.erase(flight.readers.linger_number) > 0) {
    lingering_bytes_ -= operation.request.bytes;
  }
  if (open_.erase(operation.request.key) > 0 && !operation.request.small) --large_;
}

void Offers::take(std::string_view sender, const Notice& notice, Clock::time_point now,
                  std::vector<Event>& events) {
  if (notice.kind == Notice::Kind::alive) {
    for (const auto& [key, operation] : open_) {
      for (auto& granted : operation->flight.readers.granted) {
        const bool named = std::find(notice.numbers.begin(), notice.numbers.end(),
                                     granted.number) != notice.numbers.end();
        if (named && granted.claimant == sender) granted.heard = now;
      }
    }
    return;
  }
  for (const std::string_view key : notice.keys) {
    const auto it = find(key);
    if (it == open_.end()) {
      ++unknown_;
      continue;
    }
    ++matched_;
    const OperationPtr operation = it->second;
    Readers& readers = operation->flight.readers;
    const std::uint32_t places = operation->request.places;
    // All have ended, and the operation is about to.
    if (places != kUnlimited && readers.done + readers.failed >= places) continue;
    if (notice.kind == Notice::Kind::failed) {
      if (readers.take_grant(sender)) {
        readers.quiet_at = now + kQuietTime;
      } else if (readers.place != nullptr &&
                 !readers.place->slot().take_place(readers.place->generation())) {
        // The places are others', who are at it.
        continue;
      }
      note_failed(
          *operation, 1,
          "the peer '" + printable(sender) + "' reports '" + printable(notice.reason) + "'");
    } else {
      note_done(*operation, sender);
    }
    conclude(operation, now, events);
  }
}

void Offers::note_done(Operation& operation, std::string_view sender) {
  Readers& readers = operation.flight.readers;
  if (readers.take_grant(sender)) {
    // It was counted when its place was granted.
  } else if (readers.without_notice > 0) {
    // Counted already.
    --readers.without_notice;
    return;
  } else if (readers.place != nullptr) {
    const std::uint32_t places = operation.request.places;
    OfferSlot& slot = readers.place->slot();
    const bool claimed = places == kUnlimited
                             ? slot.is_claimed() || slot.done() > readers.done_by_table
                             : places - slot.places_left() > readers.done + readers.failed;
    if (claimed) {
      ++readers.done_by_table;
    } else {
      foreign_seen_ = true;
      if (!slot.take_place(readers.place->generation()) && places > 1) return;
    }
  }
  ++readers.done;
  operation.progress.reader_ended(true);
}

void Offers::note_failed(Operation& operation, std::uint32_t count, std::string reason) {
  Readers& readers = operation.flight.readers;
  if (readers.failed == 0) readers.reason = std::move(reason);
  readers.failed += count;
  while (count-- > 0) operation.progress.reader_ended(false);
}

void Offers::conclude(const OperationPtr& operation, Clock::time_point now,
                      std::vector<Event>& events) {
  Readers& readers = operation->flight.readers;
  const std::uint32_t places = operation->request.places;
  if (places == kUnlimited || readers.done + readers.failed < places) return;
  // Of one reader the notice says that its transfer is over; of several one may have been sent
  // twice.
  const bool lingers = now < readers.quiet_at || (places > 1 && is_in_use(*operation));
  if (operation->flight.phase != Phase::offered) {
    if (!lingers) events.push_back({operation, {}});
    return;
  }
  if (readers.failed == 0) {
    if (lingers) {
      operation->progress.finish(OperationStatus::complete);
      linger(operation, now, {});
    } else {
      events.push_back({operation, Outcome::complete()});
    }
    return;
  }
  std::string why = operation->request.describe() + ": ";
  if (places > 1) {
    why += std::to_string(readers.failed) + " of " + std::to_string(places) +
           " peers have failed, the first because ";
  }
  Failure failure{ErrorCode::remote_failed, why + readers.reason};
  if (lingers) {
    operation->fail(std::move(failure));
    linger(operation, now, {});
  } else {
    events.push_back({operation, Outcome::failed(std::move(failure))});
  }
}

void Offers::answer(std::string_view sender, const Notice& notice, Clock::time_point now,
                    ClaimAnswers& answers) {
  for (const ClaimRequest& claim : notice.claims) {
    const auto it = find(claim.key);
    auto answer = ClaimAnswer::closed;
    if (it != open_.end() && it->second->flight.phase == Phase::offered) {
      Flight& flight = it->second->flight;
      const auto& place = flight.readers.place;
      // Over TCP this process itself would touch what has been unmapped under the offer.
      if (!all_mapped(flight.local_regions)) {
        answer = ClaimAnswer::unmapped;
      } else if (flight.readers.was_granted(sender, claim.number, now)) {
        answer = ClaimAnswer::granted;
      } else if (place != nullptr && place->slot().take_place(place->generation())) {
        answer = ClaimAnswer::granted;
        flight.readers.granted.push_back({std::string(sender), claim.number, now});
      }
    }
    answers.emplace_back(claim.number, answer);
  }
}

void Offers::review(Clock::time_point now, std::vector<Event>& events) {
  if (open_.empty() || now < no_review_before_) return;
  const std::uint64_t reports = table_ == nullptr ? 0 : table_->reports();
  const bool thoroughly = now >= next_review_;
  if (!thoroughly && reports == reports_seen_ && lingering_.empty()) return;
  if (thoroughly || reports != reports_seen_) {
    for (const auto& [key, operation] : open_) review(operation, now, thoroughly, events);
  } else {
    for (const auto& [number, operation] : lingering_) review(operation, now, false, events);
  }
  reports_seen_ = reports;
  const auto ended = Clock::now();
  no_review_before_ =
      ended + std::max<Clock::duration>(kReviewPause, kReviewFraction * (ended - now));
  if (thoroughly) next_review_ = ended + kThoroughReviewPause;
}

void Offers::review(const OperationPtr& operation, Clock::time_point now, bool thoroughly,
                    std::vector<Event>& events) {
  Readers& readers = operation->flight.readers;
  const bool lingers = operation->flight.phase == Phase::lingering;
  if (readers.place != nullptr &&
      (lingers ||
       readers.place->slot().has_begun(readers.place->generation(), operation->request.places))) {
    OfferSlot& slot = readers.place->slot();
    const std::uint32_t done = slot.done();
    const ClaimsSeen seen = slot.review(thoroughly);
    if (seen.abandoned) readers.quiet_at = now + kQuietTime;
    if (seen.failed > 0) {
      const std::string_view reason = slot.reason();
      note_failed(*operation, seen.failed,
                  reason.empty() ? "the peer's process has ended"
                                 : "the peer reports '" + printable(reason) + "'");
    }
    // A notice may be late; when it is missed twice, it is taken for lost.
    const bool misses = done > readers.done_by_table;
    if (thoroughly && misses && readers.misses_notices) {
      const std::uint32_t lost = done - readers.done_by_table;
      readers.done_by_table = done;
      readers.without_notice += lost;
      readers.done += lost;
      for (std::uint32_t i = 0; i < lost; ++i) operation->progress.reader_ended(true);
    }
    if (thoroughly) readers.misses_notices = misses;
  }
  if (thoroughly) {
    const auto silent = std::erase_if(readers.granted, [&](const Readers::Granted& granted) {
      return now - granted.heard > kLongestSilence;
    });
    if (silent > 0) {
      note_failed(*operation, static_cast<std::uint32_t>(silent), "the peer has fallen silent");
    }
  }
  if (!lingers) {
    conclude(operation, now, events);
  } else if (now >= readers.linger_until && now >= readers.quiet_at && !is_in_use(*operation)) {
    events.push_back({operation, {}});
  }
}

bool Offers::is_in_use(const Operation& operation) noexcept {
  const Readers& readers = operation.flight.readers;
  return !readers.granted.empty() ||
         (readers.place != nullptr && readers.place->slot().is_claimed());
}

bool Offers::is_any_in_use() const noexcept {
  return std::any_of(lingering_.begin(), lingering_.end(),
                     [](const auto& entry) { return is_in_use(*entry.second); });
}

bool Offers::peers_may_not_claim() {
  return table_ == nullptr || foreign_peers_.value_or(foreign_seen_);
}

bool Offers::keys_differ() {
  if (!keys_differ_) keys_differ_ = have_keys_of_their_own(agent_);
  return *keys_differ_;
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

std::string Offers::blob_of(const std::vector<Region>& regions) {
  if (connections_ == nullptr) return agent_.full_metadata();
  if (host_keys_.are_one() && all_on_host(regions)) {
    return Blob::join(*connections_, host_keys_.backend(), regions, host_keys_.key());
  }
  std::vector<std::string> partial;
  for_each_type(regions, [&](const std::vector<Region>& of_one_type) {
    partial.push_back(agent_.partial_metadata(of_one_type));
  });
  try {
    for (const std::string& some : partial) host_keys_.learn(some);
    return Blob::join(*connections_, partial);
  } catch (const Error&) {
    return agent_.full_metadata();
  }
}

NIXL_CONNECT_NAMESPACE_END
