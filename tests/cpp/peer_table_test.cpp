#include "peer_table.h"

#include <gtest/gtest.h>

#include "memory.h"
#include "memory_registry.h"

namespace nixl_connect {
namespace {

/// Two agents on real NIXL: what one offers, the other's table admits.
class PeerTableTest : public ::testing::Test {
 protected:
  std::shared_ptr<const Blob> offer(const testing::Buffer& buffer) {
    const auto d = buffer.descriptor();
    const std::vector<Region> regions{Region::of(d.device, d.address, d.size)};
    registry.acquire(regions);
    return Blob::parse(Blob::join(owner.partial_metadata({}), owner.partial_metadata(regions)));
  }

  Agent owner{NixlApi::load("", {}), "owner", "UCX", {}, false};
  Agent mover{NixlApi::load("", {}), "mover", "UCX", {}, false};
  MemoryRegistry registry{owner};
  PeerTable peers{mover, "UCX", 4, 2};
};

TEST_F(PeerTableTest, LoadsOnceWhatIsTheSame) {
  const testing::Buffer buffer(4096);
  const auto blob = offer(buffer);
  const auto peer = peers.admit(*blob);
  EXPECT_EQ(peers.admit(*blob), peer);
  EXPECT_EQ(peer->remote_keys.size(), 1u);
  EXPECT_EQ(peers.size(), 1u);
}

TEST_F(PeerTableTest, AnAgentThatComesBackUnderItsNameIsAnotherLoading) {
  const testing::Buffer buffer(4096);
  const auto blob = offer(buffer);
  const auto old = peers.admit(*blob);
  Agent again{NixlApi::load("", {}), "owner", "UCX", {}, false};
  const auto fresh = peers.admit(*Blob::parse(again.partial_metadata({})));
  EXPECT_NE(fresh, old);
  EXPECT_NE(fresh->alias, old->alias);
  // What flies under the old alias is not disturbed.
  EXPECT_NO_THROW(mover.notify(old->alias, "old"));
  EXPECT_NO_THROW(mover.notify(fresh->alias, "fresh"));
}

TEST_F(PeerTableTest, NixlForgetsWithTheLastHolder) {
  const testing::Buffer buffer(4096);
  const auto blob = offer(buffer);
  auto peer = peers.admit(*blob);
  const std::string alias = peer->alias;
  peers.retire(*peer);
  EXPECT_EQ(peers.size(), 0u);
  EXPECT_NO_THROW(mover.notify(alias, "still there"));
  peer.reset();
  EXPECT_THROW(mover.notify(alias, "gone"), AgentError);
}

TEST_F(PeerTableTest, ABrokenPeerIsLoadedAfresh) {
  const testing::Buffer buffer(4096);
  const auto blob = offer(buffer);
  const auto peer = peers.admit(*blob);
  peer->broken = true;
  EXPECT_NE(peers.admit(*blob), peer);
}

TEST_F(PeerTableTest, ARefusalByNixlItselfIsOvercome) {
  const testing::Buffer first(4096);
  const testing::Buffer second(4096);
  const auto blob = offer(first);
  const auto peer = peers.admit(*blob);
  // NIXL erases the peer, and its backend keeps the connection: the name is burnt.
  mover.forget_remote(peer->alias);
  EXPECT_NO_THROW(peers.admit(*offer(second)));
}

TEST_F(PeerTableTest, TablesAreBounded) {
  std::vector<testing::Buffer> buffers;
  for (int i = 0; i < 10; ++i) buffers.emplace_back(4096);
  for (const auto& buffer : buffers) {
    EXPECT_LE(peers.admit(*offer(buffer))->remote_keys.size(), 4u);
  }
  const auto blob = offer(testing::Buffer(4096));
  for (int i = 0; i < 10; ++i) {
    peers.admit(*Blob::parse(blob->renamed("peer " + std::to_string(i))));
    EXPECT_LE(peers.size(), 2u);
  }
}

TEST_F(PeerTableTest, AnAgentIsItsOwnPeerWithoutLoading) {
  PeerTable own(owner, "UCX", 4, 2);
  const testing::Buffer buffer(4096);
  const auto peer = own.admit(*offer(buffer));
  EXPECT_EQ(peer->alias, owner.name());
  EXPECT_EQ(own.size(), 0u);
  EXPECT_NO_THROW(owner.notify(peer->alias, "hello"));
}

TEST_F(PeerTableTest, KnowsWhatABlobOffers) {
  const testing::Buffer buffer(4096);
  const auto blob = offer(buffer);
  const auto d = buffer.part(10, 20);
  EXPECT_TRUE(offers(*blob, "UCX", Region::of(d.device, d.address, d.size)));
  EXPECT_FALSE(offers(*blob, "UCX", Region::of(d.device, d.address, 5000)));
  EXPECT_FALSE(offers(*blob, "GDS", Region::of(d.device, d.address, d.size)));
  EXPECT_FALSE(address_for(*blob, "UCX").empty());
  EXPECT_TRUE(address_for(*blob, "GDS").empty());
}

}  // namespace
}  // namespace nixl_connect
