#include "wire/notification.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace nixl_connect {
namespace {

using std::chrono::microseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(NotificationKey, IsNeverTheSame) {
  std::set<std::string> keys;
  for (int i = 0; i < 1000; ++i) keys.insert(make_notification_key(microseconds(i % 2)));
  EXPECT_EQ(keys.size(), 1000u);
}

TEST(NotificationKey, SaysWhatDelayItsOwnerAllows) {
  EXPECT_EQ(notice_delay_of(make_notification_key({})), microseconds(0));
  EXPECT_EQ(make_notification_key({}).size(), 32u);
  const std::string key = make_notification_key(microseconds(250));
  EXPECT_EQ(notice_delay_of(key), microseconds(250));
  EXPECT_EQ(notice_delay_of(key + ".signature"), microseconds(250));
  EXPECT_EQ(notice_delay_of(make_notification_key(std::chrono::seconds(9))), kLongestNoticeDelay);
}

TEST(NotificationKey, OfOtherMakersShowsNone) {
  const std::string digits(32, 'a');
  for (const std::string& key :
       {std::string(), std::string("~5"), digits, digits + "~", digits + "~x", digits + "~5x",
        digits + "~-5", digits + "~99999999999999999999", digits + "0~5", digits.substr(1) + "~5",
        std::string(32, 'g') + "~5", digits + " ~5", digits + "~,5", digits + "~5,"}) {
    EXPECT_EQ(notice_delay_of(key), microseconds(0)) << key;
  }
}

TEST(Notice, OfOneSuccessIsItsKey) {
  EXPECT_EQ(success_notice({"second"}), "second");
  const Notice notice = Notice::read("second");
  EXPECT_THAT(notice.keys, ElementsAre("second"));
  EXPECT_EQ(notice.kind, Notice::Kind::ended);
}

TEST(Notice, OfManySuccessesListsTheirKeys) {
  const std::string message = success_notice({"third", "gone", "first.signed"});
  EXPECT_EQ(message, "nixl_connect/ended/third,gone,first.signed");
  const Notice notice = Notice::read(message);
  EXPECT_THAT(notice.keys, ElementsAre("third", "gone", "first.signed"));
  EXPECT_EQ(notice.kind, Notice::Kind::ended);
  EXPECT_THAT(Notice::read("nixl_connect/ended/").keys, IsEmpty());
  EXPECT_THAT(Notice::read("nixl_connect/ended/,,").keys, ElementsAre("", ""));
}

TEST(Notice, OfAFailureHasAReason) {
  // Keys may hold anything.
  for (const std::string key : {"plain", "with/slash", "nixl_connect/failed/x", ""}) {
    const std::string message = failure_notice(key, "timed_out");
    const Notice notice = Notice::read(message);
    EXPECT_THAT(notice.keys, ElementsAre(key));
    EXPECT_EQ(notice.kind, Notice::Kind::failed);
    EXPECT_EQ(notice.reason, "timed_out");
  }
  EXPECT_THAT(Notice::read("nixl_connect/failed/").keys, ElementsAre("nixl_connect/failed/"));
}

TEST(Notice, OfAKeyThatWasAddedTo) {
  EXPECT_EQ(bare_key("key.signature"), "key");
  EXPECT_EQ(bare_key("key"), "key");
}

}  // namespace
}  // namespace nixl_connect
