#include "engine/notification_router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/connection_state.h"

namespace nixl_connect {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

std::shared_ptr<ConnectionState> waiting(const std::string& key) {
  auto state = std::make_shared<ConnectionState>();
  state->key = key;
  return state;
}

std::vector<std::shared_ptr<ConnectionState>> taken(NotificationRouter& router,
                                                    const std::string& message) {
  std::vector<std::shared_ptr<ConnectionState>> operations;
  for (const auto& match : router.take(message)) operations.push_back(match.operation);
  return operations;
}

TEST(NotificationRouter, MatchesOnceAndForgets) {
  NotificationRouter router;
  const auto first = waiting("first");
  router.add(first);
  router.add(waiting("second"));
  EXPECT_THAT(taken(router, "first"), ElementsAre(first));
  EXPECT_THAT(taken(router, "first"), IsEmpty());
  EXPECT_THAT(taken(router, "nothing"), IsEmpty());
  EXPECT_EQ(router.unknown(), 2u);
  EXPECT_FALSE(router.empty());
  EXPECT_THAT(taken(router, "second"), SizeIs(1));
  EXPECT_TRUE(router.empty());
}

TEST(NotificationRouter, ReadsSuccessesOfMany) {
  NotificationRouter router;
  const auto first = waiting("first");
  const auto second = waiting("second");
  const auto third = waiting("third");
  for (const auto& operation : {first, second, third}) router.add(operation);
  EXPECT_THAT(taken(router, NotificationRouter::success_notice({"third", "gone", "first.signed"})),
              ElementsAre(third, first));
  EXPECT_EQ(router.unknown(), 1u);
  EXPECT_EQ(NotificationRouter::success_notice({"second"}), "second");
  EXPECT_THAT(taken(router, "nixl_connect/ended/"), IsEmpty());
  EXPECT_THAT(taken(router, "nixl_connect/ended/,,"), IsEmpty());
  EXPECT_THAT(taken(router, "nixl_connect/ended/second,second"), ElementsAre(second));
  EXPECT_TRUE(router.empty());
}

TEST(NotificationRouter, ReadsFailureNotices) {
  NotificationRouter router;
  // Keys may hold anything.
  for (const std::string key : {"plain", "with/slash", "nixl_connect/failed/x", ""}) {
    router.add(waiting(key));
    const auto matches = router.take(NotificationRouter::failure_notice(key, "timed_out"));
    ASSERT_THAT(matches, SizeIs(1)) << key;
    EXPECT_EQ(matches[0].operation->key, key);
    EXPECT_TRUE(matches[0].failed);
    EXPECT_EQ(matches[0].reason, "timed_out");
  }
  EXPECT_THAT(taken(router, "nixl_connect/failed/"), IsEmpty());
}

TEST(NotificationRouter, MatchesAKeyThatWasAddedTo) {
  NotificationRouter router;
  router.add(waiting("key"));
  EXPECT_THAT(taken(router, "key.signature"), SizeIs(1));
  router.add(waiting("key"));
  EXPECT_TRUE(router.take(NotificationRouter::failure_notice("key.signature", "x")).at(0).failed);
  EXPECT_TRUE(router.empty());
}

TEST(NotificationRouter, ForgetsWhatIsRemoved) {
  NotificationRouter router;
  const auto state = waiting("key");
  router.add(state);
  router.remove(*state);
  EXPECT_TRUE(router.empty());
  EXPECT_THAT(taken(router, "key"), IsEmpty());
}

}  // namespace
}  // namespace nixl_connect
