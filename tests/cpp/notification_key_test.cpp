#include <gtest/gtest.h>

#include <set>

#include "wire/notification.h"

namespace nixl_connect {
namespace {

using std::chrono::microseconds;

TEST(NotificationKey, IsNeverTheSame) {
  std::set<std::string> keys;
  for (int i = 0; i < 1000; ++i) keys.insert(make_notification_key(microseconds(i % 2)));
  EXPECT_EQ(keys.size(), 1000u);
}

TEST(NotificationKey, SaysHowPatientItsOwnerIs) {
  EXPECT_EQ(patience_of(make_notification_key({})), microseconds(0));
  EXPECT_EQ(make_notification_key({}).size(), 32u);
  const std::string key = make_notification_key(microseconds(250));
  EXPECT_EQ(patience_of(key), microseconds(250));
  EXPECT_EQ(patience_of(key + ".signature"), microseconds(250));
  EXPECT_EQ(patience_of(make_notification_key(std::chrono::seconds(9))), kMostPatience);
}

TEST(NotificationKey, OfOtherMakersShowsNone) {
  const std::string digits(32, 'a');
  for (const std::string& key :
       {std::string(), std::string("~5"), digits, digits + "~", digits + "~x", digits + "~5x",
        digits + "~-5", digits + "~99999999999999999999", digits + "0~5", digits.substr(1) + "~5",
        std::string(32, 'g') + "~5", digits + " ~5", digits + "~,5", digits + "~5,"}) {
    EXPECT_EQ(patience_of(key), microseconds(0)) << key;
  }
}

}  // namespace
}  // namespace nixl_connect
