#include "engine/startup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

namespace nixl_connect {
namespace {

using ::testing::ElementsAre;

class StartupTest : public ::testing::Test {
 protected:
  void begin() {
    startup.begin([&] { ++launches; }, [&] { ++retries; });
  }
  std::string error_of_begin() {
    try {
      begin();
    } catch (const Error& error) {
      return to_string(error.code());
    }
    return "none";
  }

  int launches = 0;
  int retries = 0;
  ForkGuard fork_guard{std::make_shared<const std::string>("worker")};
  Startup startup{fork_guard};
};

TEST_F(StartupTest, BeginsOnceAndTellsWhoWaits) {
  const auto queue = CompletionQueue::create();
  EXPECT_TRUE(startup.notify(queue, 7));
  EXPECT_FALSE(startup.begun());
  begin();
  begin();
  EXPECT_EQ(launches, 1);
  EXPECT_TRUE(startup.begun());
  EXPECT_FALSE(startup.check());
  std::thread waiter([&] { startup.wait({}); });
  startup.found_library("/lib/libnixl_capi.so");
  startup.report_started();
  waiter.join();
  EXPECT_TRUE(startup.check());
  std::vector<std::uint64_t> tokens;
  queue->drain(tokens);
  EXPECT_THAT(tokens, ElementsAre(7u));
  EXPECT_FALSE(startup.notify(queue, 8));
  EXPECT_EQ(startup.nixl_library(), "/lib/libnixl_capi.so");
}

TEST_F(StartupTest, SaysWhyItHasFailed) {
  begin();
  startup.report_failed({ErrorCode::nixl_not_found, "nowhere"});
  EXPECT_THROW(startup.check(), Error);
  EXPECT_THROW(startup.wait({}), Error);
}

TEST_F(StartupTest, IsTriedAgainWhenItHasFailed) {
  begin();
  startup.report_failed({ErrorCode::backend, "no interface is up"});
  EXPECT_THROW(startup.check(), Error);
  begin();
  begin();
  EXPECT_EQ(launches, 1);
  EXPECT_EQ(retries, 1);
  EXPECT_TRUE(startup.starting());
  EXPECT_FALSE(startup.check());
  startup.report_started();
  EXPECT_TRUE(startup.started());
  begin();
  EXPECT_EQ(retries, 1);
  startup.close();
  EXPECT_FALSE(startup.started());
}

TEST_F(StartupTest, AWaitIsInterrupted) {
  begin();
  int asked = 0;
  try {
    startup.wait([&] { return ++asked == 2; });
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::cancelled);
  }
  EXPECT_EQ(asked, 2);
}

TEST_F(StartupTest, ALaunchThatFailsMayBeTriedAgain) {
  EXPECT_THROW(startup.begin([] { throw Error(ErrorCode::backend, "no thread"); }, [] {}), Error);
  EXPECT_FALSE(startup.begun());
  begin();
  EXPECT_EQ(launches, 1);
}

TEST_F(StartupTest, NothingBeginsOnceClosed) {
  startup.close();
  EXPECT_EQ(error_of_begin(), "closed");
  EXPECT_EQ(launches, 0);
  EXPECT_THROW(startup.check(), Error);
}

TEST_F(StartupTest, IsClosedAfterItHasBegun) {
  begin();
  startup.report_started();
  startup.close();
  EXPECT_EQ(error_of_begin(), "closed");
  EXPECT_THROW(startup.check(), Error);
}

TEST_F(StartupTest, AForkedChildIsTold) {
  begin();
  startup.report_started();
  const pid_t child = ::fork();
  if (child == 0) {
    bool right = fork_guard.is_child();
    try {
      fork_guard.check();
      right = false;
    } catch (const Error& error) {
      right = right && error.code() == ErrorCode::forked;
    }
    // Nor does another one start here.
    ForkGuard guard(std::make_shared<const std::string>("fresh"));
    Startup fresh(guard);
    try {
      fresh.begin([] {}, [] {});
      right = false;
    } catch (const Error& error) {
      right = right && error.code() == ErrorCode::forked;
    }
    startup.close();
    ::_exit(right ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_FALSE(fork_guard.is_child());
}

}  // namespace
}  // namespace nixl_connect
