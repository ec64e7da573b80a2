#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "nixl_connect/api.h"
#include "wire/region.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Values by region, in NIXL's order, with a search for the regions that overlap a given one.
template <typename Value>
class RegionIndex {
 public:
  using Entry = std::pair<const Region, Value>;

  std::size_t size() const noexcept { return entries_.size(); }

  Entry* find(const Region& region) {
    const auto it = entries_.find(region);
    return it == entries_.end() ? nullptr : &*it;
  }

  void insert(const Region& region, Value value) {
    Entry* entry = &*entries_.insert_or_assign(region, std::move(value)).first;
    const std::size_t its_class = size_class(region);
    by_size_[its_class].insert_or_assign(region, entry);
    occupied_ |= std::uint64_t{1} << its_class;
  }

  void erase(const Region& region) {
    entries_.erase(region);
    const std::size_t its_class = size_class(region);
    by_size_[its_class].erase(region);
    if (by_size_[its_class].empty()) occupied_ &= ~(std::uint64_t{1} << its_class);
  }

  /// Calls `visit(Entry&)` for each entry that overlaps `region`, until it returns false. It may
  /// change the value.
  template <typename Visit>
  void for_each_overlapping(const Region& region, Visit visit) const {
    // Entries of one class are of one size within a factor of two, so those that can reach the
    // region are next to it, however long entries of another class are.
    Region last = region;
    last.address = region.end() - 1;
    last.size = std::numeric_limits<std::size_t>::max();
    for (std::uint64_t classes = occupied_; classes != 0; classes &= classes - 1) {
      const auto& peers = by_size_[static_cast<std::size_t>(std::countr_zero(classes))];
      for (auto it = peers.upper_bound(last); it != peers.begin();) {
        --it;
        const auto& [its_region, entry] = *it;
        if (!its_region.same_place(region)) break;
        if (its_region.overlaps(region)) {
          if (!visit(*entry)) return;
        } else if (region.address - its_region.address >= 2 * its_region.size) {
          break;
        }
      }
    }
  }

  /// The smallest entry that covers `region`, or null.
  const Entry* smallest_covering(const Region& region) const {
    const Entry* smallest = nullptr;
    for_each_overlapping(region, [&](const Entry& entry) {
      if (entry.first.covers(region) &&
          (smallest == nullptr || entry.first.size < smallest->first.size)) {
        smallest = &entry;
      }
      return true;
    });
    return smallest;
  }

  /// Whether NIXL, with the same regions in its table, finds one for each of `wanted` in turn.
  ///
  /// It does not visit all that cover (`getCoveringIndex` and `populate`, the same in NIXL
  /// 0.10 to 1.5): for the first, and for any that is less than the one before it, it looks at
  /// the first entry that is not less than it and at the one before that; for every other it
  /// walks forward from where it is. A small region can so hide a large one. It always finds
  /// its way when each wanted region is in the table exactly.
  bool nixl_finds(const std::vector<Region>& wanted) const {
    auto at = entries_.end();
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const Region& region = wanted[i];
      if (i == 0 || region < wanted[i - 1]) {
        at = entries_.lower_bound(region);
        if (at == entries_.end() || !at->first.covers(region)) {
          if (at == entries_.begin()) return false;
          at = std::prev(at);
          if (!at->first.covers(region)) return false;
        }
      } else {
        while (at != entries_.end() && !at->first.covers(region)) ++at;
        if (at == entries_.end()) return false;
      }
    }
    return true;
  }

 private:
  static std::size_t size_class(const Region& region) noexcept {
    return static_cast<std::size_t>(std::bit_width(region.size) - 1);
  }

  std::map<Region, Value> entries_;
  std::array<std::map<Region, Entry*>, 64> by_size_;
  /// A bit for each class that has any.
  std::uint64_t occupied_ = 0;
};

NIXL_CONNECT_NAMESPACE_END
