#include "claims/offer_slot.h"

#include <algorithm>
#include <cstring>

#include "system/process.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

constexpr std::uint64_t kOpen = std::uint64_t{1} << 31;
constexpr std::uint64_t kPlaces = kOpen - 1;
constexpr int kGenerationShift = 32;
/// Of a claim: the process, its start, how it has ended.
constexpr int kProcessShift = 32;
constexpr int kStartShift = 8;
constexpr std::uint64_t kEnd = 0xff;
constexpr std::uint64_t kStartBits = 0xffffff;

std::uint64_t claimant_of(pid_t process) noexcept {
  return std::uint64_t{static_cast<std::uint32_t>(process)} << kProcessShift |
         (process_start(process) & kStartBits) << kStartShift;
}

/// This process's, which costs a system call or two at first.
std::uint64_t this_claimant() noexcept {
  static std::atomic<std::uint64_t> known{0};
  std::uint64_t claimant = known.load(std::memory_order_relaxed);
  const pid_t process = this_process();
  if (claimant >> kProcessShift != static_cast<std::uint32_t>(process)) {
    claimant = claimant_of(process);
    known.store(claimant, std::memory_order_relaxed);
  }
  return claimant;
}

bool lives(std::uint64_t claim) noexcept {
  const std::uint64_t claimant = claim & ~kEnd;
  return claimant == this_claimant() ||
         claimant == claimant_of(static_cast<pid_t>(claim >> kProcessShift));
}

bool has_place(std::uint64_t state, std::uint32_t generation) noexcept {
  return state >> kGenerationShift == generation && (state & kOpen) != 0 && (state & kPlaces) != 0;
}

/// Takes one of the places, if there is one.
bool take(std::atomic<std::uint64_t>& state, std::uint32_t generation) noexcept {
  std::uint64_t seen = state.load();
  while (has_place(seen, generation)) {
    if ((seen & kPlaces) == kUnlimited || state.compare_exchange_weak(seen, seen - 1)) return true;
  }
  return false;
}

}  // namespace

void OfferSlot::open(std::uint32_t generation, std::uint32_t places) noexcept {
  done_.store(0, std::memory_order_relaxed);
  reason_state_.store(0, std::memory_order_relaxed);
  state_.store(std::uint64_t{generation} << kGenerationShift | kOpen | places);
}

bool OfferSlot::is_open(std::uint32_t generation) const noexcept {
  const std::uint64_t state = state_.load();
  return state >> kGenerationShift == generation && (state & kOpen) != 0;
}

bool OfferSlot::has_begun(std::uint32_t generation, std::uint32_t places) const noexcept {
  const std::uint64_t state = state_.load(std::memory_order_acquire);
  if (state >> kGenerationShift != generation) return false;
  return (state & kPlaces) < places || (places == kUnlimited && is_claimed());
}

void OfferSlot::close() noexcept { state_.fetch_and(~kOpen); }

bool OfferSlot::take_place(std::uint32_t generation) noexcept { return take(state_, generation); }

std::uint32_t OfferSlot::places_left() const noexcept {
  return static_cast<std::uint32_t>(state_.load() & kPlaces);
}

bool OfferSlot::is_claimed() const noexcept {
  return std::any_of(claims_.begin(), claims_.end(),
                     [](const auto& claim) { return claim.load() != 0; });
}

ClaimsSeen OfferSlot::review(bool whether_alive) noexcept {
  ClaimsSeen seen;
  for (auto& entry : claims_) {
    std::uint64_t claim = entry.load();
    if (claim == 0) continue;
    const auto end = static_cast<ClaimEnd>(claim & kEnd);
    const bool is_at_it = end == ClaimEnd::none && !(whether_alive && !lives(claim));
    // If that fails it has ended in this moment, and the next time tells how.
    if (is_at_it || !entry.compare_exchange_strong(claim, 0)) {
      ++seen.live;
    } else {
      ++seen.failed;
      seen.abandoned |= end != ClaimEnd::unused;
    }
  }
  return seen;
}

std::string_view OfferSlot::reason() const noexcept {
  if (reason_state_.load(std::memory_order_acquire) != 2) return {};
  return {reason_.data(), std::min<std::size_t>(reason_size_, reason_.size())};
}

OfferSlot::Claimed OfferSlot::claim(std::uint32_t generation, std::size_t& place) noexcept {
  // Without a trace, while it is closed.
  if (!has_place(state_.load(), generation)) return Claimed::refused;
  const std::uint64_t mine = this_claimant();
  for (place = 0; place < kClaims; ++place) {
    std::uint64_t none = 0;
    if (claims_[place].compare_exchange_strong(none, mine)) break;
  }
  if (place == kClaims) return Claimed::busy;
  if (take(state_, generation)) return Claimed::granted;
  claims_[place].store(0);
  return Claimed::refused;
}

void OfferSlot::end_done(std::size_t place) noexcept {
  done_.fetch_add(1);
  claims_[place].store(0);
}

void OfferSlot::end_failed(std::size_t place, ClaimEnd end, std::string_view reason) noexcept {
  std::uint32_t unwritten = 0;
  if (!reason.empty() && reason_state_.compare_exchange_strong(unwritten, 1)) {
    reason = reason.substr(0, reason_.size());
    std::memcpy(reason_.data(), reason.data(), reason.size());
    reason_size_ = static_cast<std::uint8_t>(reason.size());
    reason_state_.store(2, std::memory_order_release);
  }
  claims_[place].store(this_claimant() | static_cast<std::uint64_t>(end));
}

NIXL_CONNECT_NAMESPACE_END
