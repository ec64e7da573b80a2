#include "notification_router.h"

#include <gtest/gtest.h>

#include "connection_state.h"

namespace nixl_connect {
namespace {

std::shared_ptr<ConnectionState> waiting(const std::string& key) {
  auto state = std::make_shared<ConnectionState>();
  state->key = key;
  return state;
}

TEST(NotificationRouter, MatchesOnceAndForgets) {
  NotificationRouter router;
  const auto first = waiting("first");
  router.add(first);
  router.add(waiting("second"));
  EXPECT_EQ(router.take("first").operation, first);
  EXPECT_EQ(router.take("first").operation, nullptr);
  EXPECT_EQ(router.take("nothing").operation, nullptr);
  EXPECT_EQ(router.unknown(), 2u);
  EXPECT_FALSE(router.empty());
  EXPECT_NE(router.take("second").operation, nullptr);
  EXPECT_TRUE(router.empty());
}

TEST(NotificationRouter, ReadsFailureNotices) {
  NotificationRouter router;
  // Keys may hold anything.
  for (const std::string key : {"plain", "with/slash", "nixl_connect/failed/x", ""}) {
    router.add(waiting(key));
    const auto match = router.take(NotificationRouter::failure_notice(key, "timed_out"));
    ASSERT_NE(match.operation, nullptr) << key;
    EXPECT_EQ(match.operation->key, key);
    EXPECT_TRUE(match.failed);
    EXPECT_EQ(match.reason, "timed_out");
  }
  EXPECT_EQ(router.take("nixl_connect/failed/").operation, nullptr);
}

TEST(NotificationRouter, MatchesAKeyThatWasAddedTo) {
  NotificationRouter router;
  router.add(waiting("key"));
  EXPECT_NE(router.take("key.signature").operation, nullptr);
  router.add(waiting("key"));
  EXPECT_TRUE(router.take(NotificationRouter::failure_notice("key.signature", "x")).failed);
  EXPECT_TRUE(router.empty());
}

TEST(NotificationRouter, ForgetsWhatIsRemoved) {
  NotificationRouter router;
  const auto state = waiting("key");
  router.add(state);
  router.remove(*state);
  EXPECT_TRUE(router.empty());
  EXPECT_EQ(router.take("key").operation, nullptr);
}

}  // namespace
}  // namespace nixl_connect
