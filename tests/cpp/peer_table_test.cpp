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

  /// The same blob with another remote key, as after a re-registration on RDMA.
  static std::shared_ptr<const Blob> rekeyed(const Blob& blob) {
    std::string bytes = blob.bytes();
    const auto key = blob.sections().at(0).elements.at(0).remote_key;
    const auto at = static_cast<std::size_t>(key.data() - blob.bytes().data());
    bytes[at] = static_cast<char>(bytes[at] ^ 2);
    return Blob::parse(bytes);
  }

  Agent owner{NixlApi::load("", {}), "owner", "UCX", {}, false};
  Agent mover{NixlApi::load("", {}), "mover", "UCX", {}, false};
  MemoryRegistry registry{owner};
  PeerTable peers{mover, "UCX", 4};
};

TEST_F(PeerTableTest, LoadsOnceWhatIsTheSame) {
  const testing::Buffer buffer(4096);
  const auto blob = offer(buffer);
  Peer& peer = peers.peer_of(*blob);
  EXPECT_FALSE(peers.can_notify(peer));
  EXPECT_TRUE(peers.admit(peer, *blob));
  EXPECT_TRUE(peers.admit(peer, *blob));
  EXPECT_EQ(peer.remote_keys.size(), 1u);
  EXPECT_TRUE(peers.can_notify(peer));
  EXPECT_EQ(&peers.peer_of(*blob), &peer);
}

TEST_F(PeerTableTest, AChangedKeyWaitsForTheFlights) {
  const testing::Buffer buffer(4096);
  const auto blob = offer(buffer);
  Peer& peer = peers.peer_of(*blob);
  ASSERT_TRUE(peers.admit(peer, *blob));
  peer.flights = 1;
  const auto changed = rekeyed(*blob);
  EXPECT_FALSE(peers.admit(peer, *changed));
  // Nor may anything else pass by.
  EXPECT_FALSE(peers.admit(peer, *blob));
  peer.flights = 0;
  EXPECT_TRUE(peers.admit(peer, *blob));
  EXPECT_FALSE(peer.stale);
}

TEST_F(PeerTableTest, ATablePastItsBoundIsLoadedAfresh) {
  std::vector<testing::Buffer> buffers;
  for (int i = 0; i < 10; ++i) buffers.emplace_back(4096);
  for (const auto& buffer : buffers) {
    const auto blob = offer(buffer);
    Peer& peer = peers.peer_of(*blob);
    EXPECT_TRUE(peers.admit(peer, *blob));
    EXPECT_LE(peer.remote_keys.size(), 4u);
  }
}

TEST_F(PeerTableTest, AnAgentIsItsOwnPeerWithoutLoading) {
  PeerTable own(owner, "UCX", 4);
  const auto blob = offer(testing::Buffer(4096));
  Peer& peer = own.peer_of(*blob);
  EXPECT_TRUE(own.admit(peer, *blob));
  EXPECT_TRUE(own.can_notify(peer));
  EXPECT_EQ(peer.remote_keys.size(), 0u);
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
