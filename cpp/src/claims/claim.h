#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string_view>
#include <tuple>

#include "claims/offer_table.h"
#include "system/process.h"
#include "system/process_watch.h"
#include "system/shared_memory.h"
#include "wire/offer_location.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Another process's table, or this one's own, as a claimant reaches it.
struct MappedTable {
  SharedMemory memory;
  ProcessWatch owner;
  std::chrono::steady_clock::time_point next_look{};

  OfferTable& table() const noexcept { return *static_cast<OfferTable*>(memory.get()); }
};

/// A claim on an offer of a process of this machine, while its transfer may be under way.
///
/// Thread safety: none.
class Claim {
 public:
  Claim(std::shared_ptr<MappedTable> table, const OfferLocation& location,
        std::size_t place) noexcept
      : table_(std::move(table)),
        slot_(table_->table().slots[location.slot]),
        generation_(location.generation),
        place_(place) {}
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;
  /// Without a word from the claimant: bytes may be under way. Does nothing in a forked child,
  /// whose parent has it.
  ~Claim();

  /// The owner's process.
  pid_t owner() const noexcept { return table_ == nullptr ? 0 : table_->owner.process(); }
  /// Whether the owner lives, and has not withdrawn its offer.
  bool stands() const noexcept;
  /// Whether the owner's process has ended.
  bool owner_ended() const noexcept { return table_ == nullptr || table_->owner.ended(); }
  /// The transfer has completed.
  void done() noexcept;
  /// It has truly stopped, or has never begun, for this reason.
  void failed(ClaimEnd end, std::string_view reason) noexcept;

 private:
  std::shared_ptr<MappedTable> table_;
  OfferSlot& slot_;
  const std::uint32_t generation_;
  const std::size_t place_;
  const pid_t process_ = this_process();
};

/// Claims offers where their owners' tables can be reached; nowhere, when the environment variable
/// `NIXL_CONNECT_CLAIMS` is `messages`.
///
/// Thread safety: none.
class Claims {
 public:
  enum class Answer : std::uint8_t {
    granted,
    refused,    ///< The offer is closed, or its places are taken.
    busy,       ///< Too many are at it at this moment.
    gone,       ///< The owner's process was of this machine, and has ended.
    elsewhere,  ///< The table cannot be reached from here.
  };
  Claims();
  Answer claim(const OfferLocation& location, std::unique_ptr<Claim>& claim);
  /// Whether the owner's process was of this machine, and has ended. Nothing is claimed.
  bool is_gone(const OfferLocation& location);

 private:
  using Key = std::tuple<std::int32_t, std::int32_t, std::uint64_t>;

  /// Null, with the reason in `answer`, when it is not there.
  std::shared_ptr<MappedTable> find(const OfferLocation& location, Answer& answer);
  static bool has_ended(MappedTable& table) noexcept;

  bool only_messages_ = false;
  std::map<Key, std::shared_ptr<MappedTable>> known_;
};

NIXL_CONNECT_NAMESPACE_END
