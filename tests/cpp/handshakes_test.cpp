#include "engine/handshakes.h"

#include <gmock/gmock.h>

#include "fake_agents.h"

namespace nixl_connect {
namespace {

using testing::Buffer;
using testing::FakeAgent;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class HandshakesTest : public testing::FakeAgentsTest {
 protected:
  HandshakesTest()
      : handshakes(std::in_place, reader->peers, reader->outbox, reader->admission, reader->offers),
        offered(owner->offer(source)),
        place(OwnOffers::of_this_process()->take()) {}
  void TearDown() override {
    handshakes.reset();
    FakeAgentsTest::TearDown();
  }

  /// Connects to who offers, whose key says where it keeps its table or not.
  OperationPtr connects(bool has_table = true) {
    const auto reading = FakeAgent::reader_of(*offered, target);
    Request request = reading->request;
    request.connects = true;
    if (has_table) request.key = place->location(1).appended_to(request.key);
    auto operation = std::make_shared<Operation>(std::move(request));
    operation->flight.remote = reading->flight.remote;
    return operation;
  }
  std::optional<Outcome> begin(const OperationPtr& operation) {
    return handshakes->begin(operation, now);
  }
  /// The numbers of the greetings that have come to the owner.
  std::vector<std::uint64_t> greetings() {
    std::vector<std::pair<std::string, std::string>> messages;
    owner->agent.take_notifications(messages);
    std::vector<std::uint64_t> numbers;
    for (const auto& [sender, message] : messages) {
      const Notice notice = Notice::read(message);
      EXPECT_EQ(notice.kind, Notice::Kind::claim);
      EXPECT_EQ(notice.connection_information, reader->offers.connection_information());
      for (const ClaimRequest& claim : notice.claims) {
        EXPECT_EQ(claim.key, "") << "nobody's offer is claimed";
        numbers.push_back(claim.number);
      }
    }
    return numbers;
  }
  std::vector<Event> answer(std::uint64_t number, const std::string& sender = "owner") {
    std::vector<Event> events;
    const std::string message = answer_message({{number, ClaimAnswer::closed}});
    handshakes->take(sender, Notice::read(message), events);
    return events;
  }
  std::vector<Event> poll() {
    std::vector<Event> events;
    handshakes->poll(now, events);
    return events;
  }

  std::optional<Handshakes> handshakes;
  OperationPtr offered;
  std::unique_ptr<OwnOffers::Place> place;
  Clock::time_point now = Clock::now();
};

TEST_F(HandshakesTest, BothEndpointsAreGreetedAndAnswered) {
  const auto operation = connects();
  EXPECT_EQ(begin(operation), std::nullopt);
  EXPECT_EQ(operation->flight.phase, Phase::claiming);
  const auto numbers = greetings();
  ASSERT_THAT(numbers, SizeIs(2));
  EXPECT_THAT(answer(7), IsEmpty()) << "a claim's";
  EXPECT_THAT(answer(numbers[0]), IsEmpty());
  EXPECT_THAT(answer(numbers[0]), IsEmpty()) << "a second time";
  const auto events = answer(numbers[1]);
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_TRUE(events[0].outcome.completed);
  EXPECT_TRUE(handshakes->empty());
  EXPECT_TRUE(operation->flight.peer->proven);
  EXPECT_TRUE(PeerTable::has_notice_endpoint(*operation->flight.peer));
  EXPECT_TRUE(reader->peers.knows(operation->flight.remote));
  // The first transfer needs no loading.
  const auto loaded = fake_nixl::counts().loaded_peers;
  EXPECT_EQ(reader->peers.admit(operation->flight.remote), operation->flight.peer);
  EXPECT_EQ(fake_nixl::counts().loaded_peers, loaded);
}

TEST_F(HandshakesTest, OthersAreLoadedAndNotGreeted) {
  const auto outcome = begin(connects(false));
  ASSERT_NE(outcome, std::nullopt);
  EXPECT_TRUE(outcome->completed);
  EXPECT_THAT(greetings(), IsEmpty());
  EXPECT_EQ(fake_nixl::counts().loaded_peers, 2u);
}

TEST_F(HandshakesTest, AnotherAgentAtTheAddressIsSaid) {
  const auto operation = connects();
  begin(operation);
  const auto events = answer(greetings().at(0), "somebody");
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events[0].outcome.failure->code, ErrorCode::peer_unreachable);
  EXPECT_THAT(events[0].outcome.failure->message, HasSubstr("another agent, 'somebody', answers"));
  EXPECT_TRUE(handshakes->empty());
}

TEST_F(HandshakesTest, AGreetingThatIsNotAnsweredIsRepeated) {
  begin(connects());
  const auto first = greetings();
  now += std::chrono::milliseconds(900);
  EXPECT_THAT(poll(), IsEmpty());
  EXPECT_THAT(greetings(), IsEmpty());
  now += std::chrono::milliseconds(200);
  EXPECT_THAT(answer(first[0]), IsEmpty());
  EXPECT_THAT(poll(), IsEmpty());
  const auto second = greetings();
  ASSERT_THAT(second, SizeIs(1)) << "the other one is answered";
  EXPECT_THAT(answer(first[1]), SizeIs(1)) << "late, and an answer";
  EXPECT_THAT(answer(second[0]), IsEmpty());
  EXPECT_TRUE(handshakes->empty());
}

TEST_F(HandshakesTest, APeerThatIsSilentForLongIsGone) {
  const auto ends_after = [&](bool endpoint_fails) {
    const auto operation = connects();
    EXPECT_EQ(begin(operation), std::nullopt);
    for (int second = 1; second < 100; ++second) {
      now += std::chrono::milliseconds(1001);
      if (endpoint_fails && second == 2) reader->peers.failed(*operation->flight.peer);
      std::vector<Event> events;
      handshakes->poll(now, events);
      if (events.empty()) continue;
      EXPECT_EQ(events[0].outcome.failure->code, ErrorCode::peer_unreachable);
      return second;
    }
    return 0;
  };
  EXPECT_EQ(ends_after(false), 30);
  EXPECT_EQ(ends_after(true), 7);
}

TEST_F(HandshakesTest, WithRdmaThereIsOneEndpointThatServesAllRegions) {
  fake_nixl::rotate_keys(true);
  const Buffer another{1000, 8};
  offered = owner->offer(source);
  const auto next = owner->offer(another);
  const auto operation = connects();
  begin(operation);
  const auto numbers = greetings();
  ASSERT_THAT(numbers, SizeIs(1)) << "notices go by the endpoint of the transfers";
  EXPECT_THAT(answer(numbers[0]), SizeIs(1));
  const auto reading = FakeAgent::reader_of(*next, target);
  EXPECT_EQ(reader->peers.admit(reading->flight.remote), operation->flight.peer);
}

TEST_F(HandshakesTest, APeerThatCannotBeLoadedIsUnreachable) {
  fake_nixl::fail("load_remote_md", capi::kBackend);
  const auto outcome = begin(connects());
  ASSERT_NE(outcome, std::nullopt);
  EXPECT_EQ(outcome->failure->code, ErrorCode::peer_unreachable);
  EXPECT_THAT(outcome->failure->message, HasSubstr("connection to 'owner'"));
}

TEST_F(HandshakesTest, WhatHasEndedWaitsNoMore) {
  const auto operation = connects();
  begin(operation);
  operation->progress.finish(OperationStatus::cancelled);
  const auto events = poll();
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_FALSE(events[0].outcome.failure);
  EXPECT_TRUE(handshakes->empty());
}

}  // namespace
}  // namespace nixl_connect
