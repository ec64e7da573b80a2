#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "claims/own_offers.h"
#include "engine/clock.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Who reads an offer, or writes to it, as far as its owner knows.
///
/// Thread safety: whoever makes the operation fills in the place; the rest is for whoever has the
/// agent lock.
struct Readers {
  /// One to whom a place was granted by a message.
  struct Granted {
    std::string claimant;
    std::uint64_t number = 0;
    Clock::time_point heard;
  };

  /// What the table has of it. Null when the table is full, and for a part.
  std::unique_ptr<OwnOffers::Place> place;
  std::vector<Granted> granted;
  /// The last of them that have ended, for a claim that comes again.
  std::vector<Granted> ended;
  /// Readers that have ended. Each takes one of the places.
  std::uint32_t done = 0;
  std::uint32_t failed = 0;
  /// Of those done: the ones of which the table has told, or will.
  std::uint32_t done_by_table = 0;
  /// Of those again: whose notices have not come. A review has missed some.
  std::uint32_t without_notice = 0;
  bool misses_notices = false;
  /// Why the first of them has failed.
  std::string reason;
  /// Until then bytes of one that has failed may still arrive.
  Clock::time_point quiet_at{};
  /// Until then a peer that makes no claims may be at it.
  Clock::time_point linger_until{};
  /// Its place among those that linger.
  std::uint64_t linger_number = 0;

  /// Whether this claim was granted before. Its claimant has asked again, and is heard.
  bool was_granted(std::string_view claimant, std::uint64_t number, Clock::time_point now);
  /// Takes one of the places back that were granted to this claimant; false when it has none.
  bool take_grant(std::string_view claimant);
};

NIXL_CONNECT_NAMESPACE_END
