#include "engine/offers.h"

#include <gmock/gmock.h>

#include "fake_agents.h"

namespace nixl_connect {
namespace {

using testing::FakeAgent;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::make_operation;
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
