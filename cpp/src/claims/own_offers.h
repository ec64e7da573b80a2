#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "claims/offer_table.h"
#include "system/process.h"
#include "system/shared_memory.h"
#include "wire/offer_location.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// This process's table: hands out its slots.
///
/// Thread safety: every member may be called from any thread.
class OwnOffers : public std::enable_shared_from_this<OwnOffers> {
 public:
  /// An open or closed slot, this offer's alone.
  class Place {
   public:
    Place(std::shared_ptr<OwnOffers> table, std::uint32_t index, std::uint32_t generation) noexcept
        : table_(std::move(table)), index_(index), generation_(generation) {}
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;
    /// Closes it. It is used again when nobody is entered in it any more.
    ~Place();

    OfferSlot& slot() const noexcept { return table_->table().slots[index_]; }
    std::uint32_t generation() const noexcept { return generation_; }
    /// For the notification key.
    OfferLocation location(std::uint32_t places) const noexcept;

   private:
    const std::shared_ptr<OwnOffers> table_;
    const std::uint32_t index_;
    const std::uint32_t generation_;
  };

  /// Made at the first call, and anew in a forked child. Null when the system gives no memory for
  /// it.
  static std::shared_ptr<OwnOffers> of_this_process();

  /// Null when all slots are taken.
  std::unique_ptr<Place> take();
  std::uint64_t reports() const noexcept { return table().header.reports.load(); }
  OfferTable& table() const noexcept { return *static_cast<OfferTable*>(memory_.get()); }

 private:
  explicit OwnOffers(SharedMemory memory);
  /// A forked child has the parent's, and must leave it as it is.
  bool is_this_process() const noexcept { return process_ == this_process(); }
  void give_back(std::uint32_t index) noexcept;

  const SharedMemory memory_;
  const pid_t process_ = this_process();
  std::mutex mutex_;
  /// Never used so far; those before are in `free_`, in a `Place`, or in `busy_`.
  std::uint32_t unused_ = 0;
  std::vector<std::uint32_t> free_;
  /// Given back while somebody was entered.
  std::vector<std::uint32_t> busy_;
  std::vector<std::uint32_t> generations_;
};

NIXL_CONNECT_NAMESPACE_END
