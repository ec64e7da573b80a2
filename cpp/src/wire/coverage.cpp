#include "wire/coverage.h"

#include <algorithm>
#include <numeric>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// With so few pairs it is quicker to try them all.
constexpr std::size_t kFewPairs = 256;

std::vector<std::size_t> each_with_each(const std::vector<Region>& offered,
                                        const std::vector<Region>& wanted) {
  std::vector<std::size_t> found(wanted.size(), kNotCovered);
  for (std::size_t w = 0; w < wanted.size(); ++w) {
    for (std::size_t i = 0; i < offered.size(); ++i) {
      if (!offered[i].covers(wanted[w])) continue;
      std::size_t& best = found[w];
      if (best == kNotCovered || offered[i].size < offered[best].size) best = i;
    }
  }
  return found;
}

/// The order of the regions by place and address.
std::vector<std::size_t> sorted(const std::vector<Region>& regions) {
  std::vector<std::size_t> order(regions.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return regions[a] == regions[b] ? a < b : regions[a] < regions[b];
  });
  return order;
}

/// The smallest of the regions that end at or behind an address, among those that were added: a
/// Fenwick tree over the ends, from the last to the first.
class SmallestByEnd {
 public:
  explicit SmallestByEnd(const std::vector<Region>& regions)
      : regions_(regions), best_(regions.size() + 1, kNotCovered) {
    for (const Region& region : regions) ends_.push_back(region.end());
    std::sort(ends_.begin(), ends_.end());
  }

  void add(std::size_t index) {
    for (std::size_t at = rank(regions_[index].end()); at < best_.size(); at += at & -at) {
      if (is_better(index, best_[at])) best_[at] = index;
    }
  }
  std::size_t find(std::uintptr_t end) const {
    std::size_t found = kNotCovered;
    for (std::size_t at = rank(end); at > 0; at -= at & -at) {
      if (is_better(best_[at], found)) found = best_[at];
    }
    return found;
  }
  void clear() { std::fill(best_.begin(), best_.end(), kNotCovered); }

 private:
  /// How many ends are at or behind this one.
  std::size_t rank(std::uintptr_t end) const {
    return static_cast<std::size_t>(ends_.end() -
                                    std::lower_bound(ends_.begin(), ends_.end(), end));
  }
  bool is_better(std::size_t index, std::size_t than) const {
    if (index == kNotCovered || than == kNotCovered) return index < than;
    return std::pair(regions_[index].size, index) < std::pair(regions_[than].size, than);
  }

  const std::vector<Region>& regions_;
  std::vector<std::uintptr_t> ends_;
  std::vector<std::size_t> best_;
};

}  // namespace

std::vector<std::size_t> smallest_covering(const std::vector<Region>& offered,
                                           const std::vector<Region>& wanted) {
  if (offered.size() <= kFewPairs / std::max<std::size_t>(wanted.size(), 1)) {
    return each_with_each(offered, wanted);
  }
  // By address: when a wanted one is looked up, those that begin at or before it have been added.
  const auto offered_order = sorted(offered);
  const auto wanted_order = sorted(wanted);
  SmallestByEnd candidates(offered);
  std::vector<std::size_t> found(wanted.size(), kNotCovered);
  auto next = offered_order.begin();
  const Region* place = nullptr;
  for (const std::size_t w : wanted_order) {
    const Region& region = wanted[w];
    if (place == nullptr || !place->same_place(region)) {
      candidates.clear();
      place = &region;
      while (next != offered_order.end() && offered[*next] < region &&
             !offered[*next].same_place(region)) {
        ++next;
      }
    }
    for (; next != offered_order.end() && offered[*next].same_place(region) &&
           offered[*next].address <= region.address;
         ++next) {
      candidates.add(*next);
    }
    found[w] = candidates.find(region.end());
  }
  return found;
}

std::optional<std::pair<std::size_t, std::size_t>> find_overlap(
    const std::vector<Region>& regions) {
  const auto order =
      std::is_sorted(regions.begin(), regions.end()) ? std::vector<std::size_t>() : sorted(regions);
  const auto nth = [&](std::size_t i) { return order.empty() ? i : order[i]; };
  // In this order, if any overlap, two neighbours do.
  for (std::size_t i = 1; i < regions.size(); ++i) {
    const auto [first, second] = std::minmax({nth(i - 1), nth(i)});
    if (regions[first].overlaps(regions[second])) return std::pair(first, second);
  }
  return std::nullopt;
}

NIXL_CONNECT_NAMESPACE_END
