#include "engine/in_flight.h"

#include <gmock/gmock.h>

#include "fake_agents.h"

namespace nixl_connect {
namespace {

using testing::Buffer;
using testing::FakeAgent;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class InFlightTest : public testing::FakeAgentsTest {
 protected:
  /// A posted transfer from this owner.
  OperationPtr posted(FakeAgent& from) {
    offered.push_back(from.offer(source));
    targets.emplace_back(1000);
    auto read = FakeAgent::reader_of(*offered.back(), targets.back());
    Flight& flight = read->flight;
    auto& peer = peers[&from];
    if (peer == nullptr) peer = reader->peers.admit(flight.remote);
    flight.peer = peer;
    flight.lease = reader->registry.acquire(flight.local_regions);
    flight.transfer.emplace(reader->agent.create_transfer(OperationKind::read, flight.local_regions,
                                                          flight.remote.regions, peer->alias, ""));
    EXPECT_FALSE(flight.transfer->post());
    flights.add(read);
    return read;
  }
  std::vector<InFlight::Retired> poll() {
    std::vector<InFlight::Retired> retired;
    flights.poll(Clock::time_point::max(), retired);
    for (const auto& one : retired) one.operation->flight.transfer.reset();
    return retired;
  }
  void TearDown() override {
    flights.for_each([](const OperationPtr& operation) {
      operation->flight.transfer.reset();
      operation->flight.peer.reset();
    });
    held.clear();
    peers.clear();
    FakeAgentsTest::TearDown();
  }

  std::vector<OperationPtr> held;
  int asked = 0;
  std::vector<OperationPtr> offered;
  std::vector<Buffer> targets;
  std::map<FakeAgent*, std::shared_ptr<Peer>> peers;
  InFlight flights;
};

TEST_F(InFlightTest, AreRetiredWhenNixlHasDoneWithThem) {
  fake_nixl::hold_transfers(true);
  const auto first = posted(*owner);
  EXPECT_TRUE(flights.is_only(*first));
  const auto second = posted(*owner);
  EXPECT_FALSE(flights.is_only(*first));
  EXPECT_THAT(poll(), IsEmpty());
  fake_nixl::hold_transfers(false);
  const auto retired = poll();
  ASSERT_THAT(retired, SizeIs(2));
  EXPECT_EQ(retired[0].operation, first);
  EXPECT_EQ(retired[1].operation, second);
  EXPECT_FALSE(retired[0].error);
  EXPECT_TRUE(flights.empty());
}

TEST_F(InFlightTest, ThatFailSayWhatNixlSays) {
  fake_nixl::hold_transfers(true);
  posted(*owner);
  fake_nixl::fail("get_xfer_status", -2);
  const auto retired = poll();
  ASSERT_THAT(retired, SizeIs(1));
  ASSERT_TRUE(retired[0].error);
  EXPECT_EQ(retired[0].error->status(), -2);
  EXPECT_TRUE(flights.empty());
}

TEST_F(InFlightTest, OfAStoppedPeerHoldUpNobodyElses) {
  FakeAgent stopped("stopped");
  for (int i = 0; i < 300; ++i) posted(stopped);
  fake_nixl::stop("stopped", true);
  const auto healthy = posted(*owner);
  const auto retired = poll();
  ASSERT_THAT(retired, SizeIs(1));
  EXPECT_EQ(retired[0].operation, healthy);
  EXPECT_EQ(flights.size(), 300u);
}

TEST_F(InFlightTest, OfManyStoppedPeersHoldUpOthersForFewPolls) {
  std::vector<std::unique_ptr<FakeAgent>> stopped;
  for (int i = 0; i < 64; ++i) {
    stopped.push_back(std::make_unique<FakeAgent>("stopped" + std::to_string(i)));
    posted(*stopped.back());
  }
  fake_nixl::stop("stopped", true);
  posted(*owner);
  int polls = 1;
  while (poll().empty() && polls < 100) ++polls;
  EXPECT_LE(polls, 9);
}

TEST_F(InFlightTest, EachIsAskedAfterInTime) {
  // Of one peer, all but one stop: it is found, wherever it is.
  constexpr int kMany = 100;
  fake_nixl::hold_transfers(true);
  for (int i = 0; i < kMany; ++i) held.push_back(posted(*owner));
  fake_nixl::watch([&](const std::string& function) {
    if (function == "get_xfer_status") ++asked;
  });
  for (int polls = 0; polls < kMany; ++polls) EXPECT_THAT(poll(), IsEmpty());
  EXPECT_LE(asked, 4 * kMany) << "a few at each poll";
  fake_nixl::hold_transfers(false);
  std::size_t retired = 0;
  for (int polls = 0; polls < kMany; ++polls) retired += poll().size();
  EXPECT_EQ(retired, std::size_t{kMany});
  fake_nixl::watch(nullptr);
}

TEST_F(InFlightTest, GoOnWhenTheTimeIsUp) {
  fake_nixl::hold_transfers(true);
  posted(*owner);
  fake_nixl::hold_transfers(false);
  std::vector<InFlight::Retired> retired;
  flights.poll(Clock::time_point{}, retired);
  EXPECT_THAT(retired, IsEmpty());
  EXPECT_THAT(poll(), SizeIs(1));
}

TEST_F(InFlightTest, CountTheLarge) {
  posted(*owner);
  EXPECT_EQ(flights.large(), 1u) << "reader_of makes none that is small";
  poll();
  EXPECT_EQ(flights.large(), 0u);
}

}  // namespace
}  // namespace nixl_connect
