#include "agent/failed_peers.h"

#include <gtest/gtest.h>

#include <string>

namespace nixl_connect {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

class FailedPeersTest : public ::testing::Test {
 protected:
  /// A caller asks; when it may, the peer cannot be loaded. Returns whether it was tried.
  bool try_in_vain(const PeerIdView& id) {
    if (!peers.may_try(id, now)) return false;
    peers.failed(id, now);
    return true;
  }
  /// How often a peer that cannot be loaded is tried meanwhile, when all of these are asked for
  /// all the time.
  int tries_within(std::chrono::nanoseconds time, int count) {
    int tries = 0;
    for (const auto end = now + time; now < end; now += milliseconds(20)) {
      for (int i = 0; i < count; ++i) tries += try_in_vain({std::to_string(i), "address"}) ? 1 : 0;
    }
    return tries;
  }

  FailedPeers peers{100};
  FailedPeers::Clock::time_point now = FailedPeers::Clock::now();
};

TEST_F(FailedPeersTest, OneIsLeftAloneForLongerEachTime) {
  EXPECT_TRUE(try_in_vain({"a", "1"}));
  EXPECT_FALSE(try_in_vain({"a", "1"}));
  // Another address, another peer.
  EXPECT_TRUE(try_in_vain({"a", "2"}));
  now += milliseconds(20);
  EXPECT_TRUE(try_in_vain({"a", "1"}));
  now += milliseconds(20);
  EXPECT_FALSE(try_in_vain({"a", "1"}));
  now += milliseconds(20);
  EXPECT_TRUE(try_in_vain({"a", "1"}));
}

TEST_F(FailedPeersTest, AllTogetherHaveSoManyTries) {
  // Each once, and then a few for all.
  const int in_five_seconds = tries_within(seconds(5), 24);
  EXPECT_GE(in_five_seconds, 24 + 8);
  EXPECT_LE(in_five_seconds, 24 + 8 + 6);
  EXPECT_LE(tries_within(minutes(10), 24), 30);
  // Those that have not failed are not concerned.
  EXPECT_TRUE(peers.may_try({"new", "address"}, now));
}

TEST_F(FailedPeersTest, WhenOneCanBeLoadedAgainAllMayBeTried) {
  tries_within(minutes(10), 24);
  now += seconds(31);
  ASSERT_TRUE(peers.may_try({"7", "address"}, now));
  peers.succeeded({"7", "address"});
  now += seconds(3);
  int tried = 0;
  for (int i = 8; i < 16; ++i) {
    const std::string name = std::to_string(i);
    if (!peers.may_try({name, "address"}, now)) continue;
    ++tried;
    peers.succeeded({name, "address"});
  }
  EXPECT_EQ(tried, 8);
}

TEST_F(FailedPeersTest, RemembersThoseThatAreLeftAloneOnly) {
  for (int i = 0; i < 1000; ++i) {
    EXPECT_TRUE(try_in_vain({"worker " + std::to_string(i), "address"}));
    now += milliseconds(1);
  }
}

}  // namespace
}  // namespace nixl_connect
