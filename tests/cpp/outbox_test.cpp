#include "engine/outbox.h"

#include <gmock/gmock.h>

#include "fake_agents.h"

namespace nixl_connect {
namespace {

using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using testing::FakeAgent;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class OutboxTest : public testing::FakeAgentsTest {
 protected:
  OutboxTest() {
    const auto offered = owner->offer(source);
    peer = load(*offered);
    offered_ones.push_back(offered);
  }
  void TearDown() override {
    peer.reset();
    FakeAgentsTest::TearDown();
  }
  std::shared_ptr<Peer> load(const Operation& offered) {
    return reader->peers.admit(FakeAgent::reader_of(offered, target)->flight.remote);
  }
  /// An open offer of the owner's.
  std::string key() {
    offered_ones.push_back(owner->offer(source));
    return offered_ones.back()->request.key;
  }
  Outbox& outbox() { return reader->outbox; }

  const Clock::time_point now{hours(1)};
  std::shared_ptr<Peer> peer;
  std::vector<OperationPtr> offered_ones;
};

TEST_F(OutboxTest, ASuccessThatMayNotWaitIsSentAtOnce) {
  EXPECT_TRUE(outbox().empty());
  outbox().add_success(peer, key(), microseconds(0), now);
  EXPECT_TRUE(outbox().empty());
  const auto events = owner->receive();
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_TRUE(events[0].outcome.completed);
  EXPECT_EQ(events[0].operation, offered_ones.back());
}

TEST_F(OutboxTest, SuccessesThatMayWaitGoTogether) {
  for (int i = 0; i < 3; ++i) outbox().add_success(peer, key(), microseconds(500), now);
  EXPECT_EQ(outbox().due(), now + microseconds(500));
  outbox().send_due(now + microseconds(499));
  EXPECT_THAT(owner->receive(), IsEmpty());
  outbox().send_due(now + microseconds(500));
  EXPECT_EQ(outbox().due(), Clock::time_point::max());
  EXPECT_THAT(owner->receive(), SizeIs(3));
  EXPECT_EQ(reader->counters.notifications_sent.value(), 1u);
}

TEST_F(OutboxTest, TheOneThatIsDueFirstTakesTheOthersAlong) {
  outbox().add_success(peer, key(), microseconds(500), now);
  outbox().add_success(peer, key(), microseconds(100), now + microseconds(10));
  EXPECT_EQ(outbox().due(), now + microseconds(110));
}

TEST_F(OutboxTest, TooManyAreSentWhateverTheDelay) {
  for (int i = 0; i < 64; ++i) outbox().add_success(peer, key(), microseconds(500), now);
  EXPECT_TRUE(outbox().empty());
  EXPECT_THAT(owner->receive(), SizeIs(64));
}

TEST_F(OutboxTest, AFailureIsSentAtOnceWithItsReason) {
  outbox().add_failure(peer, key(), "timed_out", now);
  EXPECT_TRUE(outbox().empty());
  EXPECT_EQ(outbox().flush_until(), now + milliseconds(100)) << "the peer has never been reached";
  const auto events = owner->receive();
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events[0].outcome.failure->code, ErrorCode::remote_failed);
  EXPECT_THAT(events[0].outcome.failure->message, ::testing::HasSubstr("timed_out"));
  peer->reached = true;
  outbox().add_failure(peer, key(), "timed_out", now + hours(1));
  EXPECT_EQ(outbox().flush_until(), now + hours(1) + milliseconds(5));
}

TEST_F(OutboxTest, WhatIsRefusedIsSentAgain) {
  fake_nixl::fail("gen_notif", -2, 4);
  const std::string success = key();
  outbox().add_success(peer, success, microseconds(0), now);
  const std::string failure = key();
  outbox().add_failure(peer, failure, "backend", now);
  EXPECT_FALSE(outbox().empty());
  EXPECT_EQ(outbox().due(), now + milliseconds(1));
  auto time = now;
  std::vector<Event> events;
  for (int i = 0; i < 3 && !outbox().empty(); ++i) {
    time += milliseconds(1);
    outbox().send_due(time);
    for (auto& event : owner->receive()) events.push_back(std::move(event));
  }
  EXPECT_TRUE(outbox().empty());
  ASSERT_THAT(events, SizeIs(2));
  EXPECT_TRUE(events[0].outcome.completed);
  EXPECT_TRUE(events[1].outcome.failure);
  EXPECT_EQ(reader->counters.notifications_refused.value(), 4u);
}

TEST_F(OutboxTest, WhatIsRefusedForGoodIsGivenUp) {
  for (const bool must_know : {false, true}) {
    fake_nixl::fail("gen_notif", -2, 1000);
    const auto refused = reader->counters.notifications_refused.value();
    outbox().add_success(peer, key(), microseconds(0), now, must_know);
    EXPECT_TRUE(outbox().is_hopeful());
    auto time = now;
    for (; !outbox().empty(); time = outbox().due()) outbox().send_due(time);
    const auto tries = reader->counters.notifications_refused.value() - refused;
    if (must_know) {
      EXPECT_GE(time - now, std::chrono::minutes(5));
      EXPECT_NEAR(static_cast<double>(tries), 310, 10) << "once a second in the end";
    } else {
      EXPECT_EQ(tries, 10u);
    }
    EXPECT_FALSE(outbox().is_hopeful());
  }
}

TEST_F(OutboxTest, AfterSomeRefusalsAFreshEndpointIsTried) {
  fake_nixl::fail("gen_notif", -2, 3);
  outbox().add_failure(peer, key(), "backend", now);
  peer->broken = true;
  auto time = now;
  while (!outbox().empty()) outbox().send_due(time = outbox().due());
  EXPECT_THAT(owner->receive(), SizeIs(1));
  EXPECT_LT(time - now, milliseconds(20));
}

TEST_F(OutboxTest, ARefusalHasThePeerLoadedAfreshByTheNextOperation) {
  fake_nixl::fail("gen_notif", -2);
  outbox().add_success(peer, key(), microseconds(0), now);
  EXPECT_NE(load(*offered_ones.back()), peer);
}

TEST_F(OutboxTest, FlushSendsAllAndHasNixlPolled) {
  outbox().add_success(peer, key(), microseconds(900), now);
  outbox().flush(now);
  EXPECT_TRUE(outbox().empty());
  EXPECT_EQ(outbox().flush_until(), now + milliseconds(5));
  outbox().flush(now + hours(1));
  EXPECT_EQ(outbox().flush_until(), now + milliseconds(5)) << "nothing more was sent";
}

}  // namespace
}  // namespace nixl_connect
