#include "region_index.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace nixl_connect {
namespace {

TEST(RegionIndex, FindsExactlyTheOverlapping) {
  std::mt19937 random(1);
  const auto pick = [&](std::uint64_t low, std::uint64_t high) {
    return std::uniform_int_distribution<std::uint64_t>(low, high)(random);
  };
  for (int round = 0; round < 50; ++round) {
    RegionIndex<int> index;
    std::set<Region> all;
    const std::uint64_t longest = pick(1, 200);
    for (int i = 0; i < 60; ++i) {
      const Region region{pick(0, 1) == 0 ? capi::kDram : capi::kVram, pick(0, 2), pick(1, 500),
                          pick(1, longest)};
      index.insert(region, i);
      all.insert(region);
      if (pick(0, 4) == 0) {
        index.erase(*all.begin());
        all.erase(all.begin());
      }
    }
    EXPECT_EQ(index.size(), all.size());
    for (int query = 0; query < 50; ++query) {
      const Region wanted{capi::kDram, pick(0, 2), pick(1, 600), pick(1, 300)};
      std::set<Region> found;
      index.for_each_overlapping(wanted, [&](const auto& entry) { found.insert(entry.first); });
      std::set<Region> expected;
      for (const Region& region : all) {
        if (region.overlaps(wanted)) expected.insert(region);
      }
      EXPECT_EQ(found, expected);
    }
  }
}

TEST(Region, CoversAndOverlaps) {
  const Region whole{capi::kDram, 0, 100, 50};
  EXPECT_TRUE(whole.covers({capi::kDram, 0, 100, 50}));
  EXPECT_TRUE(whole.covers({capi::kDram, 0, 149, 1}));
  EXPECT_FALSE(whole.covers({capi::kDram, 0, 149, 2}));
  EXPECT_FALSE(whole.covers({capi::kDram, 1, 100, 1}));
  EXPECT_FALSE(whole.covers({capi::kVram, 0, 100, 1}));
  EXPECT_TRUE(whole.overlaps({capi::kDram, 0, 149, 2}));
  EXPECT_FALSE(whole.overlaps({capi::kDram, 0, 150, 2}));
}

}  // namespace
}  // namespace nixl_connect
