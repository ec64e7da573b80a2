#include "claims/claim.h"

#include <cstdlib>
#include <utility>

#include "system/process.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// Tables that are kept mapped.
constexpr std::size_t kMostTables = 1024;
/// How often it is looked whether an owner still lives. For another process to have its place by
/// then, with an agent, takes longer.
constexpr std::chrono::milliseconds kLookPause{1};

}  // namespace

Claim::~Claim() {
  if (process_ == this_process()) failed(ClaimEnd::abandoned, "abandoned");
}

bool Claim::stands() const noexcept { return !owner_ended() && slot_.is_open(generation_); }

void Claim::done() noexcept {
  if (table_ == nullptr) return;
  slot_.end_done(place_);
  table_.reset();
}

void Claim::failed(ClaimEnd end, std::string_view reason) noexcept {
  if (table_ == nullptr) return;
  slot_.end_failed(place_, end, reason);
  table_->table().header.reports.fetch_add(1);
  table_.reset();
}

Claims::Claims() {
  const char* how = std::getenv("NIXL_CONNECT_CLAIMS");
  only_messages_ = how != nullptr && std::string_view(how) == "messages";
}

Claims::Answer Claims::claim(const OfferLocation& location, std::unique_ptr<Claim>& claim) {
  Answer answer = Answer::elsewhere;
  auto mapped = find(location, answer);
  if (mapped == nullptr) return answer;
  if (location.slot >= OfferTable::kSlots) return Answer::refused;
  OfferSlot& slot = mapped->table().slots[location.slot];
  std::size_t place = 0;
  switch (slot.claim(location.generation, place)) {
    case OfferSlot::Claimed::refused: return Answer::refused;
    case OfferSlot::Claimed::busy: return Answer::busy;
    case OfferSlot::Claimed::granted: break;
  }
  claim = std::make_unique<Claim>(std::move(mapped), location, place);
  return Answer::granted;
}

bool Claims::is_gone(const OfferLocation& location) {
  Answer answer = Answer::elsewhere;
  find(location, answer);
  return answer == Answer::gone;
}

std::shared_ptr<MappedTable> Claims::find(const OfferLocation& location, Answer& answer) {
  if (only_messages_ || location.space == 0 || location.space != process_space()) return nullptr;
  const Key key{location.process, location.file, location.table};
  if (const auto it = known_.find(key); it != known_.end()) {
    if (!has_ended(*it->second)) return it->second;
    known_.erase(it);
    answer = Answer::gone;
    return nullptr;
  }
  // The watch first: the process is then the one whose table is found.
  auto mapped = std::make_shared<MappedTable>(MappedTable{{}, ProcessWatch(location.process)});
  bool forbidden = false;
  mapped->memory = SharedMemory::of_process(location.process, location.file, OfferTable::kName,
                                            sizeof(OfferTable), forbidden);
  const bool found = mapped->memory && mapped->table().header.magic == OfferTable::kMagic &&
                     mapped->table().header.id == location.table;
  if (!found || mapped->owner.ended()) {
    if (!forbidden) answer = Answer::gone;
    return nullptr;
  }
  if (known_.size() >= kMostTables) known_.clear();
  return known_.emplace(key, std::move(mapped)).first->second;
}

bool Claims::has_ended(MappedTable& mapped) noexcept {
  const auto now = std::chrono::steady_clock::now();
  if (now < mapped.next_look) return false;
  mapped.next_look = now + kLookPause;
  return mapped.owner.ended();
}

NIXL_CONNECT_NAMESPACE_END
