#include "agent/peer_table.h"

#include <gtest/gtest.h>

#include <map>

#include "memory.h"
#include "nixl_connect/error.h"

namespace nixl_connect {
namespace {

/// Two agents on real NIXL: what one offers, the other's table admits.
class PeerTableTest : public ::testing::Test {
 protected:
  RemoteOffer offer(const testing::Buffer& buffer, Agent& by) {
    const auto d = buffer.descriptor();
    const std::vector<Region> regions{Region::of(d.device, d.address, d.size)};
    by.register_memory(regions);
    auto blob = Blob::parse(
        Blob::join(*Blob::parse(by.partial_metadata({})), {by.partial_metadata(regions)}));
    return RemoteOffer::resolve(std::move(blob), "UCX", regions);
  }
  RemoteOffer offer(const testing::Buffer& buffer) { return offer(buffer, owner); }

  Agent owner{NixlApi::load("", {}), "owner", "UCX", {}, false};
  Agent mover{NixlApi::load("", {}), "mover", "UCX", {}, false};
  PeerTable peers{mover, "UCX", 4, 2};
};

TEST_F(PeerTableTest, LoadsOnceWhatIsTheSame) {
  const testing::Buffer buffer(4096);
  const auto blob = offer(buffer);
  const auto peer = peers.admit(blob);
  EXPECT_EQ(peers.admit(blob), peer);
  EXPECT_EQ(peer->as_loaded(blob).front().device, 0u);
  EXPECT_FALSE(peer->keys_differ);
  EXPECT_EQ(peers.size(), 1u);
}

TEST_F(PeerTableTest, AnAgentThatComesBackUnderItsNameIsAnotherLoading) {
  const testing::Buffer buffer(4096);
  const auto blob = offer(buffer);
  const auto old = peers.admit(blob);
  Agent again{NixlApi::load("", {}), "owner", "UCX", {}, false};
  const testing::Buffer another(4096);
  const auto fresh = peers.admit(offer(another, again));
  EXPECT_NE(fresh, old);
  EXPECT_NE(fresh->alias, old->alias);
  // What flies under the old alias is not disturbed.
  EXPECT_NO_THROW(mover.notify(old->alias, "old"));
  EXPECT_NO_THROW(mover.notify(fresh->alias, "fresh"));
}

TEST_F(PeerTableTest, NixlForgetsWithTheLastHolder) {
  const testing::Buffer buffer(4096);
  const auto blob = offer(buffer);
  auto peer = peers.admit(blob);
  const std::string alias = peer->alias;
  peer->reached = true;
  peers.failed(*peer);
  EXPECT_EQ(peers.size(), 0u);
  EXPECT_NO_THROW(mover.notify(alias, "still there"));
  peer.reset();
  EXPECT_THROW(mover.notify(alias, "gone"), AgentError);
}

TEST_F(PeerTableTest, TheSecondOperationGoesByAnotherWayWhichIsThenForNotices) {
  const testing::Buffer buffer(4096);
  const auto blob = offer(buffer);
  const auto first = peers.admit(blob);
  EXPECT_EQ(peers.admit(blob), first) << "has not been reached yet";
  EXPECT_FALSE(peers.knows(blob));
  peers.succeeded(*first);
  EXPECT_FALSE(peers.knows(blob)) << "has to be loaded once more";

  const auto second = peers.admit(blob);
  EXPECT_NE(second, first);
  EXPECT_NE(second->alias, first->alias);
  EXPECT_TRUE(second->reached);
  EXPECT_EQ(first->notice_endpoint, second);
  EXPECT_TRUE(peers.knows(blob));
  EXPECT_FALSE(PeerTable::has_notice_endpoint(*first)) << "the endpoint for notices is not proven";
  EXPECT_EQ(peers.admit(blob), first);
  peers.succeeded(*second);
  EXPECT_TRUE(PeerTable::has_notice_endpoint(*first));
  EXPECT_FALSE(PeerTable::has_notice_endpoint(*second));
  EXPECT_EQ(peers.admit(blob), first);
  EXPECT_EQ(peers.size(), 1u);

  // A fault of either is the peer's.
  peers.failed(*second);
  EXPECT_EQ(peers.size(), 0u);
  EXPECT_NE(peers.admit(blob), first);
}

TEST_F(PeerTableTest, APeerThatCannotBeLoadedIsLeftAlone) {
  const testing::Buffer buffer(4096);
  auto gone = std::make_unique<Agent>(NixlApi::load("", {}), "gone", "UCX",
                                      std::map<std::string, std::string>{}, false);
  const auto blob = offer(buffer, *gone);
  gone.reset();
  int asked_nixl = 0;
  for (int i = 0; i < 200; ++i) {
    try {
      peers.admit(blob);
      GTEST_SKIP() << "this transport finds out only when something is sent";
    } catch (const AgentError& error) {
      if (std::string(error.what()).find("a moment ago") == std::string::npos) ++asked_nixl;
    }
  }
  EXPECT_GE(asked_nixl, 1);
  EXPECT_LT(asked_nixl, 20);
  EXPECT_EQ(peers.size(), 0u);
}

TEST_F(PeerTableTest, ABrokenPeerIsLoadedAfresh) {
  const testing::Buffer buffer(4096);
  const auto blob = offer(buffer);
  const auto peer = peers.admit(blob);
  peer->broken = true;
  EXPECT_NE(peers.admit(blob), peer);
}

TEST_F(PeerTableTest, ARefusalByNixlItselfIsOvercome) {
  const testing::Buffer first(4096);
  const testing::Buffer second(4096);
  const auto blob = offer(first);
  const auto peer = peers.admit(blob);
  // NIXL erases the peer, and its backend keeps the connection: the name is burnt.
  mover.forget_remote(peer->alias);
  EXPECT_NO_THROW(peers.admit(offer(second)));
}

TEST_F(PeerTableTest, OneLoadingServesEveryRegionByItsKey) {
  std::vector<testing::Buffer> buffers;
  for (int i = 0; i < 3; ++i) buffers.emplace_back(4096);
  std::map<std::string_view, std::uint64_t> devices;
  std::vector<RemoteOffer> offers;
  for (const auto& buffer : buffers) offers.push_back(offer(buffer));
  const auto first = peers.admit(offers[0]);
  for (const auto& each : offers) {
    EXPECT_EQ(peers.admit(each), first);
    const std::uint64_t device = first->as_loaded(each).front().device;
    EXPECT_EQ(devices.try_emplace(each.remote_keys[0], device).first->second, device);
  }
  // Without RDMA all have the same key.
  EXPECT_EQ(first->keys_differ, devices.size() > 1);
  EXPECT_LT(first->as_loaded(offers[2]).front().device, devices.size());
}

TEST_F(PeerTableTest, PeersAreBounded) {
  const testing::Buffer buffer(4096);
  for (int i = 0; i < 5; ++i) {
    Agent worker{NixlApi::load("", {}), "worker" + std::to_string(i), "UCX", {}, false};
    peers.admit(offer(buffer, worker));
    EXPECT_LE(peers.size(), 2u);
  }
}

TEST_F(PeerTableTest, AnAgentIsItsOwnPeerWithoutLoading) {
  PeerTable own(owner, "UCX", 4, 2);
  const testing::Buffer buffer(4096);
  const auto peer = own.admit(offer(buffer));
  EXPECT_EQ(peer->alias, owner.name());
  EXPECT_EQ(own.size(), 0u);
  EXPECT_NO_THROW(owner.notify(peer->alias, "hello"));
}

TEST_F(PeerTableTest, KnowsWhatABlobOffers) {
  const testing::Buffer buffer(4096);
  const auto blob = offer(buffer).blob;
  const auto d = buffer.part(10, 20);
  const Region inside = Region::of(d.device, d.address, d.size);
  EXPECT_NO_THROW(RemoteOffer::resolve(blob, "UCX", {inside}));
  EXPECT_THROW(RemoteOffer::resolve(blob, "UCX", {Region::of(d.device, d.address, 5000)}), Error);
  EXPECT_THROW(RemoteOffer::resolve(blob, "GDS", {inside}), Error);
}

}  // namespace
}  // namespace nixl_connect
