#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string_view>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// How a claim has come out, as its claimant says.
enum class ClaimEnd : std::uint8_t {
  none = 0,       ///< The claimant is at it.
  unused = 1,     ///< It has failed, and no byte is under way.
  abandoned = 2,  ///< It has failed, and bytes may still be in the sockets between the two.
};

/// Any number of places: `kAnyNumber`.
inline constexpr std::uint32_t kUnlimited = 0x7fffffff;

/// What is left of a slot's claims, as its owner sees them.
struct ClaimsSeen {
  /// Claimants that live, and have not said that they are done.
  unsigned live = 0;
  /// Those that have failed or died since the last time.
  unsigned failed = 0;
  /// Whether bytes of one of those may still be under way.
  bool abandoned = false;
};

/// One offer, in memory that its owner and its claimants share.
///
/// The owner opens it for a number of readers, or writers. A claimant first enters itself, then
/// asks whether it is open, and takes one of the places; the owner first closes it, then looks who
/// is entered. So after `close` nobody begins, and whoever has begun is seen. A claimant ends its
/// claim when its transfer has truly stopped; the claim of one that has died is found by its
/// process.
///
/// Thread safety: all members, from any process. Nothing here is trusted: what a claimant writes
/// can only end this one offer.
class OfferSlot {
 public:
  /// So many may be at one offer at the same time; others wait.
  static constexpr std::size_t kClaims = 14;

  /// Whether the offer of this generation is open.
  bool is_open(std::uint32_t generation) const noexcept;
  /// Whether somebody has begun with it, when it was for so many.
  bool has_begun(std::uint32_t generation, std::uint32_t places) const noexcept;

  // The owner's.

  /// Opens it for a new offer.
  void open(std::uint32_t generation, std::uint32_t places) noexcept;
  /// Nobody begins any more. Harmless when repeated.
  void close() noexcept;
  /// Takes a place for a claimant that cannot reach this memory. False when it is closed or full.
  bool take_place(std::uint32_t generation) noexcept;
  /// How many places are left; those of an unlimited one do not get fewer.
  std::uint32_t places_left() const noexcept;
  /// Whether a claimant is entered, dead or alive.
  bool is_claimed() const noexcept;
  /// Looks through the claims, and takes those out that have failed; and those whose process is
  /// gone, if `whether_alive` is asked for.
  ClaimsSeen review(bool whether_alive) noexcept;
  /// How many claims of this offer have ended well.
  std::uint32_t done() const noexcept { return done_.load(std::memory_order_acquire); }
  /// What the first claimant to fail has said; empty when it has said nothing.
  std::string_view reason() const noexcept;

  // The claimants'.

  enum class Claimed : std::uint8_t { granted, refused, busy };
  /// Enters this process, and tells where.
  Claimed claim(std::uint32_t generation, std::size_t& place) noexcept;
  /// The claim's transfer has completed.
  void end_done(std::size_t place) noexcept;
  /// It has not, for this reason.
  void end_failed(std::size_t place, ClaimEnd end, std::string_view reason) noexcept;

 private:
  /// generation, open, places left
  std::atomic<std::uint64_t> state_;
  std::atomic<std::uint32_t> done_;
  /// 0, or 1 while the reason is written, or 2.
  std::atomic<std::uint32_t> reason_state_;
  /// process, start, end
  std::array<std::atomic<std::uint64_t>, kClaims> claims_;
  std::array<char, 127> reason_;
  std::uint8_t reason_size_;
};

static_assert(sizeof(OfferSlot) == 256);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

NIXL_CONNECT_NAMESPACE_END
