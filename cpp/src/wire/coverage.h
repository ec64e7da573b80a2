#pragma once

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "wire/region.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// No region.
inline constexpr std::size_t kNotCovered = static_cast<std::size_t>(-1);

/// For each wanted region the index of the smallest offered one that covers it; of equal ones the
/// first. Takes O(n log n) for n regions in all, however they overlap: what is offered comes from
/// peers.
std::vector<std::size_t> smallest_covering(const std::vector<Region>& offered,
                                           const std::vector<Region>& wanted);

/// Two of the regions that have bytes in common, by their indices, the lower one first. O(n log n);
/// O(n) for regions in the order of their addresses.
std::optional<std::pair<std::size_t, std::size_t>> find_overlap(const std::vector<Region>& regions);

NIXL_CONNECT_NAMESPACE_END
