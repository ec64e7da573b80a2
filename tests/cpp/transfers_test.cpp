#include "engine/transfers.h"

#include <gmock/gmock.h>

#include "fake_agents.h"

namespace nixl_connect {
namespace {

using testing::Buffer;
using testing::FakeAgent;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class TransfersTest : public testing::FakeAgentsTest {
 protected:
  OperationPtr read_of(const Operation& offered) {
    reads.push_back(FakeAgent::reader_of(offered, target));
    return reads.back();
  }
  std::optional<Outcome> begin(const OperationPtr& read) { return reader->transfers.begin(read); }
  void TearDown() override {
    for (const auto& read : reads) {
      read->flight.transfer.reset();
      read->flight.peer.reset();
    }
    FakeAgentsTest::TearDown();
  }

  std::vector<OperationPtr> reads;
};

TEST_F(TransfersTest, ARemoteKeyMayBeEmpty) {
  // Metadata can say so; what it is good for is for NIXL to say.
  const auto offered = owner->offer(source);
  const auto read = read_of(*offered);
  read->flight.remote.remote_keys = {""};
  EXPECT_FALSE(begin(read)) << "in flight";
  const auto events = reader->poll();
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_FALSE(events[0].outcome.completed);
}

TEST_F(TransfersTest, ArePostedAndComplete) {
  const auto offered = owner->offer(source);
  const auto read = read_of(*offered);
  EXPECT_FALSE(begin(read)) << "in flight";
  EXPECT_EQ(read->flight.phase, Phase::in_flight);
  EXPECT_EQ(read->progress.status(), OperationStatus::in_progress);
  EXPECT_EQ(reader->transfers.in_flight().size(), 1u);
  const auto events = reader->poll();
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events[0].operation, read);
  EXPECT_TRUE(events[0].outcome.completed);
  EXPECT_TRUE(source == target);
  EXPECT_FALSE(read->flight.engine_notifies) << "NIXL does, for the first ones";
  EXPECT_THAT(owner->receive(), SizeIs(1));
}

TEST_F(TransfersTest, MayCompleteAtOnce) {
  fake_nixl::end_transfers_after(0);
  const auto offered = owner->offer(source);
  const auto outcome = begin(read_of(*offered));
  ASSERT_TRUE(outcome);
  EXPECT_TRUE(outcome->completed);
  EXPECT_TRUE(reader->transfers.in_flight().empty());
}

TEST_F(TransfersTest, OfAnOperationThatHasEndedOnlyTellThePeer) {
  const auto offered = owner->offer(source);
  const auto read = read_of(*offered);
  read->progress.finish(OperationStatus::cancelled);
  const auto outcome = begin(read);
  ASSERT_TRUE(outcome);
  EXPECT_FALSE(outcome->completed);
  EXPECT_FALSE(outcome->failure);
  EXPECT_TRUE(outcome->notify_peer);
  EXPECT_FALSE(read->flight.transfer);
}

TEST_F(TransfersTest, ThatNixlRefusesSayWhat) {
  const std::map<std::string, std::pair<ErrorCode, std::string>> expected{
      {"load_remote_md", {ErrorCode::peer_unreachable, "the peer could not be reached"}},
      {"register_mem", {ErrorCode::backend, "the memory could not be registered"}},
      {"create_xfer_req", {ErrorCode::backend, "NIXL refused the transfer"}},
  };
  for (const auto& [call, error] : expected) {
    const auto offered = owner->offer(source);
    auto fresh = std::make_unique<FakeAgent>("fresh");
    std::swap(fresh, reader);
    fake_nixl::fail(call, -2);
    const auto outcome = begin(read_of(*offered));
    ASSERT_TRUE(outcome && outcome->failure) << call;
    EXPECT_EQ(outcome->failure->code, error.first);
    EXPECT_THAT(outcome->failure->message, HasSubstr(error.second));
    EXPECT_TRUE(outcome->notify_peer);
    reads.back()->flight.peer.reset();
    std::swap(fresh, reader);
  }
}

TEST_F(TransfersTest, ThatFailSayWhetherThePeerWasEverReached) {
  fake_nixl::fail("get_xfer_status", -2);
  const auto offered = owner->offer(source);
  EXPECT_FALSE(begin(read_of(*offered)));
  auto events = reader->poll();
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events[0].outcome.failure->code, ErrorCode::peer_unreachable);
  EXPECT_TRUE(events[0].outcome.peer_broken);
  EXPECT_TRUE(events[0].outcome.notify_peer);

  const auto read = read_of(*offered);
  EXPECT_FALSE(begin(read));
  reader->peers.succeeded(*read->flight.peer);
  fake_nixl::fail("get_xfer_status", -2);
  events = reader->poll();
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events[0].outcome.failure->code, ErrorCode::peer_disconnected);
}

TEST_F(TransfersTest, ToItselfHoldWhatIsOffered) {
  const auto offered = owner->offer(source);
  const auto read = read_of(*offered);
  EXPECT_FALSE(owner->transfers.begin(read));
  EXPECT_THAT(read->flight.lease, SizeIs(2));
  owner->offers.remove(*offered);
  owner->registry.release(offered->flight.lease);
  EXPECT_EQ(owner->registry.size(), 2u) << "the read holds it";
  read->flight.transfer.reset();
  owner->registry.release(read->flight.lease);
}

TEST_F(TransfersTest, ToItselfUseNothingButTheOfferThatTheirKeyNames) {
  const auto refused = [&](const OperationPtr& operation) {
    const auto outcome = owner->transfers.begin(operation);
    return outcome && outcome->failure &&
           outcome->failure->message.find("not offered any more") != std::string::npos;
  };
  const auto with = [&](const Operation& offered, const std::string& key, OperationKind kind) {
    auto made = FakeAgent::reader_of(offered, target);
    Request request = made->request;
    request.key = key;
    request.kind = kind;
    auto changed = std::make_shared<Operation>(std::move(request));
    changed->flight.local_regions = made->flight.local_regions;
    changed->flight.remote = made->flight.remote;
    reads.push_back(changed);
    return changed;
  };
  const auto offered = owner->offer(source);
  const Buffer unrelated(1000, 4);
  const auto another = owner->offer(unrelated);
  const std::string key = offered->request.key;
  EXPECT_TRUE(refused(with(*offered, "whatever", OperationKind::read)));
  EXPECT_TRUE(refused(with(*offered, key, OperationKind::write))) << "it may be read";
  EXPECT_TRUE(refused(with(*another, key, OperationKind::read))) << "another offer's memory";
  EXPECT_FALSE(refused(with(*offered, key + ".signature", OperationKind::read)));
  owner->offers.remove(*offered);
  EXPECT_TRUE(refused(with(*offered, key, OperationKind::read))) << "it is closed";
}

}  // namespace
}  // namespace nixl_connect
