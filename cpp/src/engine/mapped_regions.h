#pragma once

#include <algorithm>
#include <vector>

#include "system/mapped_memory.h"
#include "wire/region.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Whether all of these regions that are of the host's memory are mapped: in this process, and in
/// another one of this host, as of `is_mapped` and `is_mapped_in`.
inline bool all_mapped(const std::vector<Region>& regions) {
  return std::all_of(regions.begin(), regions.end(), [](const Region& region) {
    return region.type != kDram || is_mapped(region.address, region.size);
  });
}
inline bool all_mapped_in(pid_t process, const std::vector<Region>& regions) {
  return std::all_of(regions.begin(), regions.end(), [&](const Region& region) {
    return region.type != kDram || is_mapped_in(process, region.address, region.size);
  });
}

NIXL_CONNECT_NAMESPACE_END
