// The right to call NIXL, by many threads: for the thread sanitizer to look at.
#include "engine/agent_lock.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>

#include "operations.h"

namespace nixl_connect {
namespace {

using testing::Flag;

/// Does something when it is released.
struct Action final : Releasable {
  explicit Action(std::function<void()> what) : act(std::move(what)) {}
  void release() noexcept override { act(); }
  std::function<void()> act;
};

TEST(AgentLock, IsOneThreadsAtATime) {
  AgentLock lock;
  int inside = 0;
  std::atomic<int> got{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 2000; ++i) {
        const auto use = [&] {
          EXPECT_EQ(++inside, 1);
          EXPECT_TRUE(AgentLock::held_here());
          --inside;
          ++got;
        };
        if (t == 0) {
          const AgentLock::Guard guard(lock);
          use();
        } else {
          const AgentLock::Guard guard(lock, std::try_to_lock);
          if (guard) use();
        }
        EXPECT_FALSE(AgentLock::held_here());
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_GE(got, 2000);
}

TEST(AgentLock, IsNotGivenToWhoeverHasOne) {
  AgentLock lock;
  AgentLock another;
  const AgentLock::Guard guard(lock);
  EXPECT_FALSE(AgentLock::Guard(lock, std::try_to_lock));
  EXPECT_FALSE(AgentLock::Guard(another, std::try_to_lock));
}

TEST(AgentLock, ReleasesWhatIsLeftForThenAfterIt) {
  AgentLock lock;
  int released = 0;
  {
    const AgentLock::Guard guard(lock);
    lock.release_later(std::make_shared<Action>([&] {
      EXPECT_FALSE(AgentLock::held_here());
      // As the owner of some memory that begins an operation.
      const AgentLock::Guard again(lock, std::try_to_lock);
      EXPECT_TRUE(again);
      ++released;
      lock.release_later(std::make_shared<Flag>(released));
    }));
    EXPECT_EQ(released, 0);
  }
  EXPECT_EQ(released, 2);
}

TEST(AgentLock, AGuardThatGotNothingReleasesNothing) {
  AgentLock lock;
  int released = 0;
  {
    const AgentLock::Guard guard(lock);
    lock.release_later(std::make_shared<Flag>(released));
    const AgentLock::Guard none(lock, std::try_to_lock);
  }
  EXPECT_EQ(released, 1);
}

TEST(AgentLock, NeedsNoContextForHostMemory) {
  AgentLock lock;
  const AgentLock::Guard guard(lock);
  EXPECT_EQ(lock.context_to_enter({{kDram, 0, 64, 64}}), nullptr);
}

}  // namespace
}  // namespace nixl_connect
