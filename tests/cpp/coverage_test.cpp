#include "wire/coverage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace nixl_connect {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// By trying each with each.
std::vector<std::size_t> expected(const std::vector<Region>& offered,
                                  const std::vector<Region>& wanted) {
  std::vector<std::size_t> found;
  for (const Region& region : wanted) {
    std::size_t best = kNotCovered;
    for (std::size_t i = 0; i < offered.size(); ++i) {
      if (!offered[i].covers(region)) continue;
      if (best == kNotCovered || offered[i].size < offered[best].size) best = i;
    }
    found.push_back(best);
  }
  return found;
}

TEST(Coverage, FindsTheSmallestAndOfEqualOnesTheFirst) {
  const std::vector<Region> offered{{kDram, 0, 100, 100},
                                    {kDram, 0, 110, 50},
                                    {kDram, 0, 110, 50},
                                    {kVram, 0, 110, 10},
                                    {kDram, 1, 110, 10}};
  const std::vector<Region> wanted{{kDram, 0, 112, 4},
                                   {kDram, 0, 150, 50},
                                   {kDram, 0, 150, 51},
                                   {kVram, 0, 110, 10},
                                   {kVram, 1, 110, 10}};
  EXPECT_THAT(smallest_covering(offered, wanted), ElementsAre(1, 0, kNotCovered, 3, kNotCovered));
  EXPECT_THAT(smallest_covering(offered, {}), IsEmpty());
  EXPECT_THAT(smallest_covering({}, {wanted[0]}), ElementsAre(kNotCovered));
}

TEST(Coverage, IsTheSameHoweverManyRegionsThereAre) {
  std::mt19937 random(3);
  const auto below = [&](unsigned limit) { return random() % limit; };
  for (int round = 0; round < 300; ++round) {
    const auto some = [&](std::size_t count, unsigned largest) {
      std::vector<Region> regions;
      for (std::size_t i = 0; i < count; ++i) {
        regions.push_back(
            {below(4) == 0 ? kVram : kDram, below(2), 1 + below(200), 1 + below(largest)});
      }
      return regions;
    };
    const auto offered = some(1 + below(60), 80);
    const auto wanted = some(1 + below(60), 20);
    ASSERT_EQ(smallest_covering(offered, wanted), expected(offered, wanted)) << round;
  }
}

TEST(Coverage, OfAHundredThousandThatAllOverlapIsFound) {
  constexpr std::size_t kMany = 100'000;
  std::vector<Region> offered;
  for (std::size_t i = 0; i < kMany; ++i) {
    offered.push_back({kDram, 0, 0x1000 + i, (std::size_t{1} << 30) + 2 * (kMany - i)});
  }
  const std::vector<Region> wanted(kMany, {kDram, 0, 0x1000 + kMany, 1});
  // Each with each would be ten thousand million pairs.
  EXPECT_EQ(smallest_covering(offered, wanted), std::vector<std::size_t>(kMany, kMany - 1));
}

TEST(Overlap, IsFoundWhereverTheTwoAre) {
  const std::vector<Region> apart{{kDram, 0, 300, 100},
                                  {kDram, 0, 100, 100},
                                  {kDram, 0, 200, 100},
                                  {kVram, 0, 100, 100},
                                  {kVram, 1, 100, 100}};
  EXPECT_EQ(find_overlap(apart), std::nullopt);
  EXPECT_EQ(find_overlap({}), std::nullopt);
  auto regions = apart;
  regions.push_back({kVram, 1, 199, 1});
  EXPECT_EQ(find_overlap(regions), std::pair(std::size_t{4}, std::size_t{5}));
  // One that lies within another, with one between them in the order of addresses.
  regions = {{kDram, 0, 150, 10}, {kDram, 0, 120, 10}, {kDram, 0, 100, 100}};
  EXPECT_EQ(find_overlap(regions), std::pair(std::size_t{1}, std::size_t{2}));
  EXPECT_EQ(find_overlap({{kDram, 0, 100, 8}, {kDram, 0, 100, 8}}),
            std::pair(std::size_t{0}, std::size_t{1}));
}

TEST(Overlap, IsWhatEachWithEachFinds) {
  std::mt19937 random(5);
  const auto below = [&](unsigned limit) { return random() % limit; };
  for (int round = 0; round < 500; ++round) {
    std::vector<Region> regions;
    for (std::size_t i = below(12); i > 0; --i) {
      regions.push_back({below(4) == 0 ? kVram : kDram, below(2), 1 + below(200), 1 + below(9)});
    }
    bool any = false;
    for (std::size_t a = 0; a < regions.size(); ++a) {
      for (std::size_t b = 0; b < a; ++b) any |= regions[a].overlaps(regions[b]);
    }
    const auto found = find_overlap(regions);
    ASSERT_EQ(found.has_value(), any) << round;
    if (found) {
      EXPECT_LT(found->first, found->second);
      EXPECT_TRUE(regions[found->first].overlaps(regions[found->second])) << round;
    }
  }
}

}  // namespace
}  // namespace nixl_connect
