#include "nixl_connect/completion.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <set>
#include <thread>

namespace nixl_connect {
namespace {

bool readable(const CompletionQueue& queue, int timeout_ms = 0) {
  pollfd fd{queue.fd(), POLLIN, 0};
  return ::poll(&fd, 1, timeout_ms) == 1;
}

TEST(CompletionQueue, IsReadableWhileItHoldsTokens) {
  const auto queue = CompletionQueue::create();
  std::vector<std::uint64_t> tokens;
  EXPECT_FALSE(readable(*queue));
  queue->push(1);
  queue->push(2);
  EXPECT_TRUE(readable(*queue));
  queue->drain(tokens);
  EXPECT_EQ(tokens, (std::vector<std::uint64_t>{1, 2}));
  EXPECT_FALSE(readable(*queue));
  queue->push(3);
  EXPECT_TRUE(readable(*queue));
  queue->drain(tokens);
  EXPECT_EQ(tokens, (std::vector<std::uint64_t>{1, 2, 3}));
}

TEST(CompletionQueue, IsNotInheritedAndNeverBlocks) {
  const auto queue = CompletionQueue::create();
  EXPECT_NE(::fcntl(queue->fd(), F_GETFD) & FD_CLOEXEC, 0);
  std::vector<std::uint64_t> tokens;
  queue->drain(tokens);
  EXPECT_TRUE(tokens.empty());
}

TEST(CompletionQueue, LosesNothingBetweenThreads) {
  constexpr std::uint64_t kThreads = 4;
  constexpr std::uint64_t kEach = 20'000;
  const auto queue = CompletionQueue::create();
  std::vector<std::thread> pushers;
  for (std::uint64_t t = 0; t < kThreads; ++t) {
    pushers.emplace_back([&queue, t] {
      for (std::uint64_t i = 0; i < kEach; ++i) queue->push(t * kEach + i);
    });
  }
  std::vector<std::uint64_t> tokens;
  while (tokens.size() < kThreads * kEach && readable(*queue, 10'000)) queue->drain(tokens);
  for (auto& thread : pushers) thread.join();
  EXPECT_EQ(std::set(tokens.begin(), tokens.end()).size(), kThreads * kEach);
}

}  // namespace
}  // namespace nixl_connect
