// Many threads at once on the stand-in, with random cancels, deadlines and closes: for the
// thread sanitizer to look at.
#include <gtest/gtest.h>

#include <atomic>
#include <random>

#include "fake.h"

namespace nixl_connect {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Buffer;
using testing::end_of;

class Threads : public testing::FakeTest {
 protected:
  Threads() {
    // Offers are cancelled under transfers here, which the memory must outlive.
    auto options = testing::fake_options("left");
    options.linger = seconds(3);
    left = std::make_unique<Connector>(options);
    options.name = "right";
    right = std::make_unique<Connector>(options);
  }
};

TEST_F(Threads, RandomOperationsEndRight) {
  constexpr unsigned kThreads = 6;
  constexpr int kRounds = 150;
  std::atomic<int> moved{0};
  fake_nixl::end_transfers_after(3);
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      const auto chance = [&](unsigned percent) { return random() % 100 < percent; };
      for (int round = 0; round < kRounds; ++round) {
        Connector& owner = chance(50) ? *left : *right;
        Connector& mover = chance(50) ? *left : *right;
        const Buffer source(200 + random() % 500, t * 1000 + static_cast<unsigned>(round) + 1);
        const Buffer target(source.bytes->size());
        const auto tight = [&]() -> std::chrono::nanoseconds {
          return chance(10) ? microseconds(random() % 500) : microseconds(30'000'000);
        };
        const auto offer = owner.create_readable({source.descriptor()}, tight());
        const auto queue = CompletionQueue::create();
        static_cast<void>(offer.notify(Milestone::ended, queue, 1));
        try {
          const auto metadata = offer.metadata();
          const auto read = mover.begin_read(metadata, {target.descriptor()}, tight());
          if (chance(10)) read.cancel();
          if (chance(10)) offer.cancel();
          if (chance(10)) offer.forget(*queue, 1);
          if (chance(80) && end_of(read) == "complete") {
            ASSERT_TRUE(source == target);
            ++moved;
          }
        } catch (const Error& error) {
          // The offer has ended before its metadata was asked for.
          ASSERT_TRUE(error.code() == ErrorCode::timed_out || error.code() == ErrorCode::cancelled)
              << error.what();
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_GT(moved, 0);
  expect_idle();
}

TEST_F(Threads, DrivenByManyAtOnce) {
  fake_nixl::end_transfers_after(3);
  std::atomic<bool> stop{false};
  std::vector<std::thread> drivers;
  for (int t = 0; t < 3; ++t) {
    drivers.emplace_back([&] {
      while (!stop) {
        left->progress();
        right->progress();
      }
    });
  }
  std::vector<std::thread> users;
  for (int t = 0; t < 3; ++t) {
    users.emplace_back([&, t] {
      const Buffer source(t == 0 ? 1 << 20 : 300, static_cast<unsigned>(t) + 1);
      const Buffer target(source.bytes->size());
      for (int i = 0; i < 100; ++i) {
        const auto offer = left->create_readable({source.descriptor()});
        const auto read = right->begin_read(offer.metadata(), {target.descriptor()});
        ASSERT_EQ(end_of(read), "complete");
        ASSERT_EQ(end_of(offer), "complete");
      }
      ASSERT_TRUE(source == target);
    });
  }
  for (auto& user : users) user.join();
  stop = true;
  for (auto& driver : drivers) driver.join();
  expect_idle();
}

TEST_F(Threads, ClosingUnderUse) {
  for (int round = 0; round < 20; ++round) {
    auto connector = std::make_unique<Connector>(testing::fake_options("closing"));
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&] {
        const Buffer source(100, 1);
        const Buffer target(100);
        try {
          while (true) {
            const auto offer = connector->create_readable({source.descriptor()});
            const auto read = connector->begin_read(offer.metadata(), {target.descriptor()});
            const auto registration = connector->register_memory(source.descriptor());
            read.wait();
            offer.wait();
          }
        } catch (const Error& error) {
          ASSERT_TRUE(error.code() == ErrorCode::closed || error.code() == ErrorCode::cancelled ||
                      error.code() == ErrorCode::remote_failed)
              << error.what();
        }
      });
    }
    std::this_thread::sleep_for(microseconds(500 * round));
    std::thread other([&] { connector->close(); });
    connector->close();
    other.join();
    for (auto& thread : threads) thread.join();
  }
}

TEST_F(Threads, ManyWaitersOfOneOperation) {
  const Buffer source(100, 1);
  const Buffer target(100);
  const auto offer = left->create_readable({source.descriptor()});
  std::vector<std::thread> waiters;
  for (int i = 0; i < 8; ++i) {
    waiters.emplace_back([&] { EXPECT_EQ(end_of(offer), "complete"); });
  }
  const auto read = right->begin_read(offer.metadata(), {target.descriptor()});
  for (auto& waiter : waiters) waiter.join();
  EXPECT_EQ(end_of(read), "complete");
}

}  // namespace
}  // namespace nixl_connect
