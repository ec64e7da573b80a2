#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <map>
#include <utility>

#include "agent.h"
#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Values by region, with a search for the regions that overlap a given one.
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
    entries_.insert_or_assign(region, std::move(value));
    longest_ = std::max(longest_, region.size);
  }

  void erase(const Region& region) { entries_.erase(region); }

  /// Calls `visit(const Entry&)` for each entry that overlaps `region`.
  template <typename Visit>
  void for_each_overlapping(const Region& region, Visit visit) const {
    Region last = region;
    last.address = region.end() - 1;
    last.size = std::numeric_limits<std::size_t>::max();
    for (auto it = entries_.upper_bound(last); it != entries_.begin();) {
      --it;
      const Region& entry = it->first;
      if (!entry.same_place(region)) break;
      if (entry.overlaps(region)) visit(*it);
      // Entries before this one begin earlier still, and none is longer than the longest.
      if (entry.address < region.address && region.address - entry.address >= longest_) break;
    }
  }

 private:
  std::map<Region, Value> entries_;
  std::size_t longest_ = 0;
};

NIXL_CONNECT_NAMESPACE_END
