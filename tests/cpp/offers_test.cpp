#include "engine/offers.h"

#include <gmock/gmock.h>

#include "fake_agents.h"

namespace nixl_connect {
namespace {

using ::testing::ElementsAre;
using testing::FakeAgent;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::make_operation;
using ::testing::Pair;
using ::testing::SizeIs;

class OffersTest : public testing::FakeAgentsTest {
 protected:
  std::vector<Event> take(const std::string& message, const std::string& sender = "peer") {
    std::vector<Event> events;
    owner->offers.take(sender, Notice::read(message), Clock::now(), events);
    for (const Event& event : events) owner->offers.remove(*event.operation);
    return events;
  }
  Offers& offers() { return owner->offers; }
};

TEST_F(OffersTest, AreRegisteredAndDescribed) {
  const auto operation = owner->offer(source);
  EXPECT_EQ(operation->flight.phase, Phase::offered);
  EXPECT_THAT(operation->flight.lease, SizeIs(1));
  EXPECT_TRUE(operation->progress.reached(Milestone::ready));
  const auto blob = Blob::parse(
      decode_nixl_metadata(operation->progress.nixl_metadata(MetadataEncoding::base64)));
  EXPECT_EQ(blob->agent(), "owner");
  ASSERT_THAT(blob->sections(), SizeIs(1));
  EXPECT_EQ(blob->sections()[0].elements[0].region, FakeAgent::region_of(source));
  // And no other region that happens to be registered.
  const testing::Buffer other(500);
  const auto second = owner->offer(other);
  EXPECT_EQ(blob->sections()[0].elements.size(), 1u);
  EXPECT_EQ(offers().size(), 2u);
}

TEST_F(OffersTest, ThatCannotBeRegisteredThrow) {
  fake_nixl::fail("register_mem", -2);
  EXPECT_THROW(owner->offer(source), AgentError);
  fake_nixl::fail("get_local_partial_md", -2);
  EXPECT_THROW(owner->offer(source), AgentError);
  EXPECT_TRUE(offers().empty());
}

/// Pieces of one byte, each a region of its own unless the buffer is registered.
OperationPtr many_pieces(const testing::Buffer& buffer, std::size_t count) {
  auto operation = make_operation(OperationKind::read, true, false);
  const Region whole = FakeAgent::region_of(buffer);
  for (std::size_t i = 0; i < count; ++i) {
    operation->flight.local_regions.push_back({kDram, 0, whole.address + 2 * i, 1});
  }
  return operation;
}

TEST_F(OffersTest, ThatNoPeerWouldTakeAreRefused) {
  constexpr std::size_t kTooMany = kMaxBlobSize / Blob::kLeastElementSize + 1;
  // With the remote keys they take more than can be known before.
  constexpr std::size_t kKeySize = 4000;
  constexpr std::size_t kManyWithKeys = kMaxBlobSize / (Blob::kLeastElementSize + kKeySize) + 1;
  fake_nixl::pad_keys(kKeySize);
  const testing::Buffer pool(2 * kTooMany);
  for (const std::size_t count : {kTooMany, kManyWithKeys}) {
    const auto operation = many_pieces(pool, count);
    const auto failure = offers().open(operation);
    ASSERT_TRUE(failure.has_value());
    EXPECT_EQ(failure->code, ErrorCode::invalid_argument);
    EXPECT_THAT(failure->message, HasSubstr("local_descriptors: expected pieces whose metadata"));
    EXPECT_THAT(failure->message, HasSubstr("register the memory"));
    EXPECT_FALSE(operation->progress.reached(Milestone::ready));
    EXPECT_TRUE(offers().empty());
    // Of those that are too many anyway none is registered.
    EXPECT_EQ(fake_nixl::counts().registered, count == kTooMany ? 0 : count);
    owner->registry.release(operation->flight.lease);
  }
  // One region has all of them.
  fake_nixl::pad_keys(0);
  const auto held = owner->registry.acquire({FakeAgent::region_of(pool)});
  const auto operation = many_pieces(pool, kTooMany);
  EXPECT_FALSE(offers().open(operation).has_value());
  EXPECT_LT(
      decode_nixl_metadata(operation->progress.nixl_metadata(MetadataEncoding::base64)).size(),
      1000u);
  owner->registry.release(operation->flight.lease);
  owner->registry.release(held);
  offers().remove(*operation);
}

TEST_F(OffersTest, AreFoundOnceByTheirKey) {
  const auto operation = owner->offer(source);
  const auto events = take(operation->request.key);
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events[0].operation, operation);
  EXPECT_TRUE(events[0].outcome.completed);
  EXPECT_THAT(take(operation->request.key), IsEmpty());
  EXPECT_THAT(take("nothing"), IsEmpty());
  EXPECT_EQ(offers().matched(), 1u);
  EXPECT_EQ(offers().unknown(), 2u);
}

TEST_F(OffersTest, AreFoundByAKeyThatWasAddedTo) {
  const auto operation = owner->offer(source);
  EXPECT_THAT(take(operation->request.key + ".signature"), SizeIs(1));
}

TEST_F(OffersTest, OfOneNoticeMayBeMany) {
  const auto first = owner->offer(source);
  const auto second = owner->offer(source);
  const auto events =
      take(success_notice({second->request.key, "gone", first->request.key + ".signed"}));
  ASSERT_THAT(events, SizeIs(2));
  EXPECT_EQ(events[0].operation, second);
  EXPECT_EQ(events[1].operation, first);
  EXPECT_EQ(offers().unknown(), 1u);
}

TEST_F(OffersTest, SayWhatAPeerReportsFitToBeShown) {
  const auto operation = owner->offer(source);
  const auto events = take(failure_notice(operation->request.key, "ti\x1b[m"), "pe\ner");
  ASSERT_THAT(events, SizeIs(1));
  ASSERT_TRUE(events[0].outcome.failure);
  EXPECT_EQ(events[0].outcome.failure->code, ErrorCode::remote_failed);
  EXPECT_THAT(events[0].outcome.failure->message, HasSubstr("the peer 'pe?er' reports 'ti?[m'"));
  EXPECT_FALSE(events[0].outcome.notify_peer) << "it knows";
}

TEST_F(OffersTest, LingerOnlyIfAPeerMayKnowOfThem) {
  const auto now = Clock::now();
  const auto secret = owner->offer(source);
  EXPECT_FALSE(offers().withdraw(secret, now, std::chrono::seconds(1)));
}

TEST_F(OffersTest, EachClaimByAMessageIsEndedByItself) {
  const auto operation = owner->offer(source, 2);
  ClaimAnswers answers;
  const std::string claims =
      claim_message({{1, operation->request.key}, {2, operation->request.key}}, "where");
  offers().answer("peer", Notice::read(claims), Clock::now(), answers);
  EXPECT_THAT(answers, ElementsAre(Pair(1, ClaimAnswer::granted), Pair(2, ClaimAnswer::granted)));
  EXPECT_THAT(take(failure_notice(operation->request.key, "backend")), IsEmpty());
  EXPECT_EQ(operation->progress.readers_failed(), 1u);
  EXPECT_THAT(operation->flight.readers.granted, SizeIs(1)) << "the other is still at it";
  EXPECT_THAT(take(operation->request.key), IsEmpty()) << "bytes of the first may be under way";
  EXPECT_EQ(operation->progress.failure()->code, ErrorCode::remote_failed);
  EXPECT_EQ(operation->flight.phase, Phase::lingering);
}

TEST_F(OffersTest, AClaimThatComesAgainTakesNoOtherPlace) {
  const auto operation = owner->offer(source, 3);
  const auto claim = [&](std::uint64_t number, const std::string& claimant = "peer") {
    ClaimAnswers answers;
    const std::string message = claim_message({{number, operation->request.key}}, "where");
    offers().answer(claimant, Notice::read(message), Clock::now(), answers);
    return answers.at(0).second == ClaimAnswer::granted;
  };
  const auto under_way = [&] { return operation->flight.readers.granted.size(); };
  EXPECT_TRUE(claim(1) && claim(1));
  EXPECT_EQ(under_way(), 1u);
  EXPECT_THAT(take(operation->request.key), IsEmpty());
  EXPECT_TRUE(claim(1)) << "its answer was late";
  EXPECT_EQ(under_way(), 0u);
  EXPECT_TRUE(claim(1, "another") && claim(2));
  EXPECT_EQ(under_way(), 2u);
  EXPECT_FALSE(claim(3));
}

TEST_F(OffersTest, OneWhoIsSilentIsTakenForDead) {
  const auto operation = owner->offer(source, 2);
  EXPECT_TRUE(operation->progress.take_metadata());
  ClaimAnswers answers;
  const auto now = Clock::now();
  for (const std::uint64_t number : {1u, 2u}) {
    const std::string claim = claim_message({{number, operation->request.key}}, "where");
    offers().answer("peer" + std::to_string(number), Notice::read(claim), now, answers);
  }
  const auto review_at = [&](int seconds) {
    std::vector<Event> events;
    offers().review(now + std::chrono::seconds(seconds), events);
    return operation->flight.readers.granted.size();
  };
  EXPECT_EQ(review_at(9), 2u);
  std::vector<Event> events;
  const std::string alive = alive_message({1});
  offers().take("peer1", Notice::read(alive), now + std::chrono::seconds(9), events);
  offers().take("peer1", Notice::read(alive_message({2})), now + std::chrono::seconds(9), events);
  EXPECT_EQ(review_at(12), 1u) << "nobody speaks for another";
  EXPECT_EQ(operation->progress.readers_failed(), 1u);
  EXPECT_TRUE(offers().withdraw(operation, now, {}));
  EXPECT_TRUE(offers().is_any_in_use());
  EXPECT_EQ(review_at(30), 0u);
  EXPECT_FALSE(offers().is_any_in_use());
}

TEST_F(OffersTest, ThatAreRemovedAreNotFound) {
  const auto operation = owner->offer(source);
  const auto never_opened = make_operation();
  offers().remove(*never_opened);
  EXPECT_EQ(offers().size(), 1u);
  offers().remove(*operation);
  offers().remove(*operation);
  EXPECT_TRUE(offers().empty());
  EXPECT_THAT(take(operation->request.key), IsEmpty());
}

TEST_F(OffersTest, CountTheLarge) {
  const auto large = make_operation(OperationKind::read, true, false);
  large->flight.local_regions = {FakeAgent::region_of(source)};
  offers().open(large);
  const auto small = owner->offer(source);
  EXPECT_EQ(offers().large(), 1u);
  take(large->request.key);
  EXPECT_EQ(offers().large(), 0u);
  offers().remove(*large);
  EXPECT_EQ(offers().large(), 0u);
}

}  // namespace
}  // namespace nixl_connect
