// Commands and wake-ups, by many threads: for the thread sanitizer to look at.
#include "engine/mailbox.h"

#include <gtest/gtest.h>

#include <thread>

#include "operations.h"

namespace nixl_connect {
namespace {

using Mode = Wait::Mode;
using std::chrono::hours;
using std::chrono::milliseconds;
using testing::make_operation;

Wait forever(Mode mode) { return {Clock::time_point::max(), mode}; }
Wait briefly(Mode mode) { return {Clock::now() + milliseconds(5), mode}; }

TEST(Mailbox, KeepsTheOrder) {
  Mailbox mailbox;
  EXPECT_TRUE(mailbox.empty());
  const auto first = make_operation();
  const auto second = make_operation();
  EXPECT_TRUE(mailbox.push(first));
  EXPECT_TRUE(mailbox.push(second));
  EXPECT_FALSE(mailbox.empty());
  std::vector<Command> commands;
  mailbox.take(commands);
  ASSERT_EQ(commands.size(), 2u);
  EXPECT_EQ(std::get<Submission>(commands[0]), first);
  EXPECT_EQ(std::get<Submission>(commands[1]), second);
  EXPECT_TRUE(mailbox.empty());
}

TEST(Mailbox, AllMayBeTakenOrNone) {
  Mailbox mailbox;
  mailbox.push(make_operation());
  mailbox.push(Task([](EngineLoop&) {}));
  const auto is_operation = [](const Command& command) {
    return std::holds_alternative<Submission>(command);
  };
  std::vector<Command> commands;
  EXPECT_FALSE(mailbox.take_if(commands, is_operation));
  EXPECT_TRUE(commands.empty());
  EXPECT_FALSE(mailbox.empty());
  EXPECT_TRUE(mailbox.take_if(commands, [](const Command&) { return true; }));
  EXPECT_EQ(commands.size(), 2u);
  EXPECT_TRUE(mailbox.empty());
}

TEST(Mailbox, ACommandEndsAStandbyAndASleepButNoRest) {
  Mailbox mailbox;
  mailbox.push(make_operation());
  EXPECT_FALSE(mailbox.wait(forever(Mode::standby)));
  EXPECT_FALSE(mailbox.wait(forever(Mode::sleep)));
  const auto began = Clock::now();
  mailbox.wait(briefly(Mode::rest));
  EXPECT_GE(Clock::now() - began, milliseconds(4));
  EXPECT_EQ(mailbox.waits(), 1u);
}

TEST(Mailbox, AWakeUpEndsASleepThatHasBeenAnnounced) {
  Mailbox mailbox;
  mailbox.announce(forever(Mode::sleep));
  mailbox.wake();
  EXPECT_FALSE(mailbox.wait(forever(Mode::sleep)));
  EXPECT_EQ(mailbox.waits(), 0u) << "it did not even begin";
}

TEST(Mailbox, ASleepThatEndsSoonEnoughIsLeftAlone) {
  Mailbox mailbox;
  const Wait sleep = briefly(Mode::sleep);
  mailbox.announce(sleep);
  mailbox.wake(sleep.until);
  const auto began = Clock::now();
  mailbox.wait(sleep);
  EXPECT_GE(Clock::now(), sleep.until);
  mailbox.announce(forever(Mode::sleep));
  mailbox.wake(Clock::now() + milliseconds(5));
  EXPECT_FALSE(mailbox.wait(forever(Mode::sleep)));
  EXPECT_LT(Clock::now() - began, std::chrono::minutes(1));
}

TEST(Mailbox, NoWakeUpIsKeptForLater) {
  Mailbox mailbox;
  mailbox.wake();
  mailbox.announce(forever(Mode::rest));
  mailbox.wake();
  mailbox.announce(forever(Mode::standby));
  mailbox.wake();
  const auto began = Clock::now();
  mailbox.wait(briefly(Mode::sleep));
  EXPECT_GE(Clock::now() - began, milliseconds(4)) << "nobody had announced a sleep";
  mailbox.wake();
  mailbox.wait(briefly(Mode::sleep));
  EXPECT_EQ(mailbox.waits(), 2u) << "the wake-up came when the sleep was over";
}

TEST(Mailbox, ClosingEndsEveryWaitOnce) {
  for (const Mode mode : {Mode::rest, Mode::standby, Mode::sleep}) {
    Mailbox mailbox;
    std::thread closer([&] { mailbox.close(); });
    EXPECT_TRUE(mailbox.wait(forever(mode)));
    closer.join();
    EXPECT_FALSE(mailbox.push(make_operation()));
    const auto began = Clock::now();
    EXPECT_TRUE(mailbox.wait(briefly(mode)));
    EXPECT_GE(Clock::now() - began, milliseconds(4)) << "later waits are as long as they should be";
  }
}

TEST(Mailbox, TakesDeregistrationsUntilTheEnd) {
  Mailbox mailbox;
  const auto region = std::make_shared<ManualRegistration>(nullptr);
  mailbox.close();
  EXPECT_FALSE(mailbox.push(Task([](EngineLoop&) {})));
  EXPECT_FALSE(mailbox.push(PartEnded{}));
  EXPECT_TRUE(mailbox.push(Deregistration{region, {}}));
  EXPECT_EQ(mailbox.end().size(), 1u);
  EXPECT_FALSE(mailbox.push(Deregistration{region, {}}));
}

TEST(Mailbox, LosesNothingOfWhatManyThreadsPush) {
  Mailbox mailbox;
  constexpr int kThreads = 4;
  constexpr int kEach = 2000;
  std::vector<std::thread> pushers;
  for (int t = 0; t < kThreads; ++t) {
    pushers.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        auto operation = make_operation();
        operation->flight.parts_left = static_cast<std::size_t>(t * kEach + i);
        EXPECT_TRUE(mailbox.push(std::move(operation)));
        if (i % 7 == 0) mailbox.wake();
      }
    });
  }
  std::vector<std::size_t> next(kThreads, 0);
  std::vector<Command> commands;
  for (int taken = 0; taken < kThreads * kEach;) {
    mailbox.wait(forever(taken % 2 == 0 ? Mode::sleep : Mode::standby));
    mailbox.take(commands);
    for (const Command& command : commands) {
      const std::size_t number = std::get<Submission>(command)->flight.parts_left;
      EXPECT_EQ(number % kEach, next[number / kEach]++) << "in the order of each thread";
      ++taken;
    }
    commands.clear();
  }
  for (auto& pusher : pushers) pusher.join();
  EXPECT_TRUE(mailbox.empty());
}

TEST(Mailbox, NoSleepMissesItsWakeUp) {
  // As the engine does: what is there to poll for is looked at under a lock, under which the sleep
  // is announced; who adds to it does so under the lock, and then wakes.
  Mailbox mailbox;
  std::mutex lock;
  int to_poll = 0;
  constexpr int kRounds = 3000;
  std::thread caller([&] {
    for (int i = 0; i < kRounds; ++i) {
      {
        const std::lock_guard guard(lock);
        ++to_poll;
      }
      mailbox.wake();
      while (true) {
        const std::lock_guard guard(lock);
        if (to_poll == 0) break;
      }
    }
  });
  for (int polled = 0; polled < kRounds;) {
    {
      const std::lock_guard guard(lock);
      polled += std::exchange(to_poll, 0);
      mailbox.announce(forever(Mode::sleep));
    }
    if (polled < kRounds) mailbox.wait(forever(Mode::sleep));
  }
  caller.join();
}

}  // namespace
}  // namespace nixl_connect
