#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

#include "nixl_connect/api.h"
#include "nixl_connect/device.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// NIXL's memory types, by the numbers that its C interface and its metadata have for them.
enum MemoryType : int { kDram = 0, kVram = 1 };

/// A piece of memory as NIXL names it: what is registered, offered and loaded.
struct Region {
  MemoryType type = kDram;
  std::uint64_t device = 0;
  std::uintptr_t address = 0;
  std::size_t size = 0;

  static Region of(Device device, std::uintptr_t address, std::size_t size) {
    return {device.kind == DeviceKind::host ? kDram : kVram, device.id, address, size};
  }

  std::uintptr_t end() const noexcept { return address + size; }
  bool same_place(const Region& other) const noexcept {
    return type == other.type && device == other.device;
  }
  bool covers(const Region& other) const noexcept {
    return same_place(other) && address <= other.address && other.end() <= end();
  }
  bool overlaps(const Region& other) const noexcept {
    return same_place(other) && address < other.end() && other.address < end();
  }

  friend auto operator<=>(const Region&, const Region&) = default;
};

/// NIXL's lists are of one memory type each.
inline bool of_one_type(const std::vector<Region>& regions) {
  return std::all_of(regions.begin(), regions.end(),
                     [&](const Region& r) { return r.type == regions.front().type; });
}

inline bool all_on_host(const std::vector<Region>& regions) {
  return std::all_of(regions.begin(), regions.end(),
                     [](const Region& r) { return r.type == kDram; });
}

/// Calls `visit` with the regions of each memory type in turn, in their order.
template <typename Visit>
void for_each_type(const std::vector<Region>& regions, Visit visit) {
  if (of_one_type(regions)) {
    if (!regions.empty()) visit(regions);
    return;
  }
  for (const MemoryType type : {kDram, kVram}) {
    std::vector<Region> some;
    std::copy_if(regions.begin(), regions.end(), std::back_inserter(some),
                 [&](const Region& r) { return r.type == type; });
    if (!some.empty()) visit(some);
  }
}

/// The bytes from `begin` to `end` of the regions, one after the other. Calls `from(index)` for
/// each region that it takes a part of.
template <typename From>
std::vector<Region> cut_regions(const std::vector<Region>& regions, std::size_t begin,
                                std::size_t end, From from) {
  std::vector<Region> slice;
  std::size_t at = 0;
  for (std::size_t i = 0; i < regions.size() && at < end; at += regions[i++].size) {
    const Region& region = regions[i];
    const std::size_t first = std::max(begin, at);
    const std::size_t last = std::min(end, at + region.size);
    if (first >= last) continue;
    slice.push_back({region.type, region.device, region.address + (first - at), last - first});
    from(i);
  }
  return slice;
}

inline std::vector<Region> cut_regions(const std::vector<Region>& regions, std::size_t begin,
                                       std::size_t end) {
  return cut_regions(regions, begin, end, [](std::size_t) {});
}

NIXL_CONNECT_NAMESPACE_END
