#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "claims/offer_slot.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// A process's offers, in memory that other processes of its machine and user map: a header, and
/// slots. Eight megabytes of addresses; pages are there when they have been used.
struct OfferTable {
  static constexpr const char* kName = "nixl_connect offers 1";
  static constexpr std::uint64_t kMagic = 0x316f6e78696e636e;
  static constexpr std::size_t kSlots = 1 << 15;

  struct Header {
    std::uint64_t magic;
    /// Of this table alone.
    std::uint64_t id;
    /// Counts what claimants have to tell that no notification tells.
    std::atomic<std::uint64_t> reports;
  };
  union {
    Header header;
    char first_page[4096];
  };
  OfferSlot slots[kSlots];
};

NIXL_CONNECT_NAMESPACE_END
