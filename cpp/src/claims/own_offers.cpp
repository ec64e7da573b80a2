#include "claims/own_offers.h"

#include <utility>

#include "system/process.h"
#include "system/random.h"

NIXL_CONNECT_NAMESPACE_BEGIN

std::shared_ptr<OwnOffers> OwnOffers::of_this_process() {
  struct Known {
    std::mutex mutex;
    pid_t process = 0;
    std::shared_ptr<OwnOffers> offers;
    std::vector<std::shared_ptr<OwnOffers>> of_parents;
  };
  // Never destroyed: operations may end later than static objects.
  static Known& known = *new Known;
  // A child is forked by a thread that is not in here, but others may be.
  static std::atomic<pid_t> owner{0};
  if (owner.load(std::memory_order_acquire) == this_process()) return known.offers;
  const std::lock_guard lock(known.mutex);
  if (known.process != this_process()) {
    known.process = this_process();
    SharedMemory memory = SharedMemory::make(OfferTable::kName, sizeof(OfferTable));
    // A parent's stays as it is: its places are the parent's.
    known.of_parents.push_back(std::move(known.offers));
    known.offers = memory ? std::shared_ptr<OwnOffers>(new OwnOffers(std::move(memory))) : nullptr;
    owner.store(known.process, std::memory_order_release);
  }
  return known.offers;
}

OwnOffers::OwnOffers(SharedMemory memory) : memory_(std::move(memory)) {
  OfferTable::Header& header = table().header;
  fill_random(&header.id, sizeof header.id);
  header.magic = OfferTable::kMagic;
}

std::unique_ptr<OwnOffers::Place> OwnOffers::take() {
  const std::lock_guard lock(mutex_);
  if (free_.empty()) {
    std::erase_if(busy_, [&](std::uint32_t index) {
      if (table().slots[index].review(true).live > 0) return false;
      free_.push_back(index);
      return true;
    });
  }
  std::uint32_t index = unused_;
  while (!free_.empty()) {
    index = free_.back();
    free_.pop_back();
    if (!table().slots[index].is_claimed()) break;
    busy_.push_back(index);
    index = unused_;
  }
  if (index == unused_) {
    if (unused_ == OfferTable::kSlots) return nullptr;
    ++unused_;
    generations_.push_back(0);
    // To give a slot back never fails.
    if (free_.capacity() < unused_) free_.reserve(std::size_t{2} * unused_);
    if (busy_.capacity() < unused_) busy_.reserve(std::size_t{2} * unused_);
  }
  return std::make_unique<Place>(shared_from_this(), index, ++generations_[index]);
}

void OwnOffers::give_back(std::uint32_t index) noexcept {
  table().slots[index].close();
  const std::lock_guard lock(mutex_);
  free_.push_back(index);
}

OwnOffers::Place::~Place() {
  if (table_->is_this_process()) table_->give_back(index_);
}

OfferLocation OwnOffers::Place::location(std::uint32_t places) const noexcept {
  return {
      process_space(), this_process(), table_->memory_.file(), table_->table().header.id, index_,
      generation_,     places};
}

NIXL_CONNECT_NAMESPACE_END
