#pragma once

#include <cstddef>
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

NIXL_CONNECT_NAMESPACE_END
