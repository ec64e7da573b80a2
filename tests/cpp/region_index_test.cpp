#include "agent/region_index.h"

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
      const Region region{pick(0, 1) == 0 ? kDram : kVram, pick(0, 2), pick(1, 500),
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
      const Region wanted{kDram, pick(0, 2), pick(1, 600), pick(1, 300)};
      std::set<Region> found;
      index.for_each_overlapping(wanted, [&](const auto& entry) {
        found.insert(entry.first);
        return true;
      });
      std::set<Region> expected;
      for (const Region& region : all) {
        if (region.overlaps(wanted)) expected.insert(region);
      }
      EXPECT_EQ(found, expected);
    }
  }
}

/// As NIXL does it, over a sorted vector.
bool search_like_nixl(const std::vector<Region>& table, const std::vector<Region>& wanted) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (i == 0 || wanted[i] < wanted[i - 1]) {
      at = static_cast<std::size_t>(std::lower_bound(table.begin(), table.end(), wanted[i]) -
                                    table.begin());
      if (at < table.size() && table[at].covers(wanted[i])) continue;
      if (at == 0 || !table[--at].covers(wanted[i])) return false;
    } else {
      while (at < table.size() && !table[at].covers(wanted[i])) ++at;
      if (at == table.size()) return false;
    }
  }
  return true;
}

TEST(RegionIndex, KnowsWhatNixlFinds) {
  std::mt19937 random(2);
  const auto pick = [&](std::uint64_t low, std::uint64_t high) {
    return std::uniform_int_distribution<std::uint64_t>(low, high)(random);
  };
  int found = 0;
  for (int round = 0; round < 2000; ++round) {
    RegionIndex<int> index;
    std::set<Region> table;
    for (std::uint64_t i = pick(0, 8); i > 0; --i) {
      const Region region{kDram, 0, pick(1, 100), pick(1, 100)};
      index.insert(region, 0);
      table.insert(region);
    }
    std::vector<Region> wanted;
    for (std::uint64_t i = pick(1, 4); i > 0; --i) {
      wanted.push_back({kDram, 0, pick(1, 150), pick(1, 30)});
    }
    const bool expected = search_like_nixl({table.begin(), table.end()}, wanted);
    found += expected ? 1 : 0;
    EXPECT_EQ(index.nixl_finds(wanted), expected);
    // With each wanted region itself in the table, it always does.
    for (const Region& region : wanted) index.insert(region, 0);
    EXPECT_TRUE(index.nixl_finds(wanted));
  }
  EXPECT_GT(found, 100);
  EXPECT_LT(found, 1900);
}

TEST(Region, CoversAndOverlaps) {
  const Region whole{kDram, 0, 100, 50};
  EXPECT_TRUE(whole.covers({kDram, 0, 100, 50}));
  EXPECT_TRUE(whole.covers({kDram, 0, 149, 1}));
  EXPECT_FALSE(whole.covers({kDram, 0, 149, 2}));
  EXPECT_FALSE(whole.covers({kDram, 1, 100, 1}));
  EXPECT_FALSE(whole.covers({kVram, 0, 100, 1}));
  EXPECT_TRUE(whole.overlaps({kDram, 0, 149, 2}));
  EXPECT_FALSE(whole.overlaps({kDram, 0, 150, 2}));
}

}  // namespace
}  // namespace nixl_connect
