// Every rule of timing, with a clock of the test's own.
#include "engine/pacer.h"

#include <gtest/gtest.h>

namespace nixl_connect {
namespace {

using Mode = Wait::Mode;
using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

class PacerTest : public ::testing::Test {
 protected:
  PacerTest() { load.pending = true; }

  /// Operations come and go, each taking so long.
  void operations_take(Clock::duration age, int count = 500) {
    for (int i = 0; i < count; ++i) pacer.completed(age, false);
  }
  Wait next() const { return pacer.next(load, now); }
  /// How long until the next poll.
  Clock::duration pause() const { return next().until - now; }
  void happens() {
    pacer.polled(now);
    pacer.worked(now);
  }

  Clock::time_point now{hours(1)};
  Pacer pacer{microseconds(200), milliseconds(10), now};
  Load load;
};

TEST_F(PacerTest, WithNothingPendingItPollsTwentyTimesASecond) {
  load.pending = false;
  EXPECT_EQ(next().mode, Mode::sleep);
  EXPECT_EQ(pause(), milliseconds(50));
  now += seconds(100);
  EXPECT_EQ(pause(), milliseconds(50));
}

TEST_F(PacerTest, ASleepEndsForTheNextDeadlineOrNotice) {
  load.pending = false;
  load.next_event = now + milliseconds(3);
  EXPECT_EQ(pause(), milliseconds(3));
  load.pending = true;
  now += seconds(1);
  load.next_event = now + microseconds(7);
  EXPECT_EQ(pause(), microseconds(7));
}

TEST_F(PacerTest, WhileSomethingHappensItPollsWithoutPause) {
  happens();
  now += microseconds(199);
  EXPECT_EQ(next().mode, Mode::none);
  now += microseconds(1);
  EXPECT_EQ(next().mode, Mode::sleep) << "spin is over";
}

TEST_F(PacerTest, ThenItPausesForAFractionOfTheTimeSince) {
  happens();
  const auto began = now;
  now = began + milliseconds(4);
  EXPECT_EQ(pause(), microseconds(500));
  now = began + milliseconds(8);
  EXPECT_EQ(pause(), milliseconds(1));
  now = began + milliseconds(32);
  EXPECT_EQ(pause(), milliseconds(1)) << "an eighth would be too long";
  now = began + milliseconds(640);
  EXPECT_EQ(pause(), milliseconds(10));
  now = began + seconds(100);
  EXPECT_EQ(pause(), milliseconds(10)) << "max_pause";
}

TEST_F(PacerTest, APauseIsWorthItsWakeUp) {
  Pacer eager(microseconds(0), milliseconds(10), now);
  EXPECT_EQ(eager.next(load, now).until - now, microseconds(20));
}

TEST_F(PacerTest, WithLargeOperationsAboutPausesAreShorter) {
  happens();
  now += milliseconds(16);
  EXPECT_EQ(pause(), milliseconds(1));
  load.large = 1;
  EXPECT_EQ(pause(), microseconds(500));
}

TEST_F(PacerTest, ALargeOperationThatIsDueIsLookedFor) {
  pacer.completed(milliseconds(16), true);
  const auto began = now;
  happens();
  load.large = 1;
  const auto pause_after = [&](milliseconds idle) {
    now = began + idle;
    return pause();
  };
  EXPECT_EQ(pause_after(milliseconds(8)), microseconds(250));
  EXPECT_EQ(pause_after(milliseconds(16)), microseconds(62) + nanoseconds(500));
  EXPECT_EQ(pause_after(milliseconds(32)), milliseconds(1)) << "it takes longer than the last one";
  load.large = 0;
  EXPECT_EQ(pause_after(milliseconds(16)), milliseconds(1)) << "none is about";
}

TEST_F(PacerTest, BetweenPollsItRestsForAFractionOfWhatOperationsTake) {
  operations_take(microseconds(3200));
  happens();
  EXPECT_EQ(next().mode, Mode::rest);
  EXPECT_NEAR(static_cast<double>(pause().count()), 50'000, 500);
  operations_take(seconds(1));
  EXPECT_LE(pause(), microseconds(100)) << "and not for longer";
}

TEST_F(PacerTest, AShortRestIsNone) {
  operations_take(microseconds(640));
  happens();
  EXPECT_EQ(next().mode, Mode::none);
}

TEST_F(PacerTest, WithManyOperationsCallersPollWhileTheyComeAndGo) {
  operations_take(microseconds(3200));
  happens();
  load.operations = 8;
  EXPECT_EQ(next().mode, Mode::standby);
  EXPECT_NEAR(static_cast<double>(pause().count()), 200'000, 2'000);
  EXPECT_TRUE(pacer.polled_enough(load, now + microseconds(190)));
  EXPECT_FALSE(pacer.polled_enough(load, now + microseconds(210)));
  EXPECT_FALSE(pacer.may_poll_inline(load, now + microseconds(90)));
  EXPECT_TRUE(pacer.may_poll_inline(load, now + microseconds(110)));
  pacer.polled_inline();
  EXPECT_EQ(next().mode, Mode::standby);
  EXPECT_NEAR(static_cast<double>(pause().count()), 800'000, 8'000) << "while they poll";
  EXPECT_TRUE(pacer.polled_enough(load, now + microseconds(790)));
  EXPECT_TRUE(pacer.may_poll_inline(load, now + microseconds(110))) << "they as often as before";
  pacer.polled(now);
  EXPECT_FALSE(pacer.polled_enough(load, now + microseconds(210))) << "the thread polls again";
  load.operations = 7;
  EXPECT_FALSE(pacer.polled_enough(load, now + microseconds(10)));
  EXPECT_FALSE(pacer.may_poll_inline(load, now + microseconds(110)));
}

TEST_F(PacerTest, NoticesWaitWhenOperationsTakeLongAnyway) {
  EXPECT_EQ(pacer.notice_delay(load), microseconds(0));
  operations_take(microseconds(3200));
  EXPECT_EQ(pacer.notice_delay(load), microseconds(0)) << "few operations";
  load.operations = 8;
  EXPECT_NEAR(static_cast<double>(pacer.notice_delay(load).count()), 200, 2);
  operations_take(seconds(1));
  EXPECT_LE(pacer.notice_delay(load), milliseconds(1));
}

TEST_F(PacerTest, APeerThatAllowsADelaySetsTheRest) {
  pacer.peer_allows_delay(microseconds(300), now);
  happens();
  EXPECT_EQ(next().mode, Mode::standby);
  EXPECT_EQ(pause(), microseconds(300));
  pacer.peer_allows_delay(microseconds(0), now);
  EXPECT_EQ(pause(), microseconds(300)) << "one that allows none says nothing of the others";
  now += microseconds(2300);
  happens();
  EXPECT_EQ(next().mode, Mode::none) << "that was long ago";
}

TEST_F(PacerTest, OneOldOperationDoesNotMakeTheRestLong) {
  operations_take(microseconds(320), 500);
  pacer.completed(hours(1), false);
  happens();
  load.operations = 8;
  EXPECT_LE(pause(), microseconds(70));
}

TEST_F(PacerTest, WhoeverDrivesTheEngineIsLeftToIt) {
  pacer.polled(now);
  pacer.driven_externally();
  EXPECT_EQ(next().mode, Mode::rest);
  EXPECT_EQ(pause(), milliseconds(2));
  load.operations = 100;
  EXPECT_FALSE(pacer.polled_enough(load, now));
  now += milliseconds(19);
  EXPECT_TRUE(pacer.is_driven_externally(now));
  now += milliseconds(1);
  EXPECT_FALSE(pacer.is_driven_externally(now));
  EXPECT_NE(next().mode, Mode::rest);
}

TEST_F(PacerTest, AWaiterThatPollsIsLeftToItToo) {
  load.waiter_polls = true;
  EXPECT_EQ(next().mode, Mode::sleep) << "it wakes the thread when it stops";
  EXPECT_EQ(pause(), milliseconds(2));
}

TEST_F(PacerTest, WithManyInFlightAPollForWhatACallerBeganMayWaitAsLongAsTheThreadRests) {
  operations_take(milliseconds(8));
  EXPECT_EQ(pacer.poll_needed(load, now), now);
  load.operations = 256;
  EXPECT_GT(pacer.poll_needed(load, now), now + microseconds(400));
  EXPECT_LE(pacer.poll_needed(load, now), now + milliseconds(1));
}

TEST_F(PacerTest, SlowDriversKeepCallersFromBeginningOperations) {
  EXPECT_TRUE(pacer.may_begin_inline(now));
  Clock::duration pause = milliseconds(1);
  for (int i = 0; i < 10; ++i) {
    pacer.began_inline(now, now + microseconds(251));
    now += microseconds(251);
    EXPECT_FALSE(pacer.may_begin_inline(now + pause - microseconds(1))) << i;
    EXPECT_TRUE(pacer.may_begin_inline(now + pause)) << i;
    pause = std::min<Clock::duration>(2 * pause, milliseconds(128));
    now += seconds(1);
  }
  pacer.began_inline(now, now + microseconds(250));
  EXPECT_TRUE(pacer.may_begin_inline(now + microseconds(250))) << "it was quick";
  pacer.began_inline(now, now + milliseconds(1));
  EXPECT_TRUE(pacer.may_begin_inline(now + milliseconds(2))) << "and the first time in a row";
}

TEST_F(PacerTest, AfterWatchingInVainFewerCallersDo) {
  const auto skipped = [&] {
    int count = 0;
    while (!pacer.may_watch(load)) ++count;
    return count;
  };
  EXPECT_EQ(skipped(), 0);
  for (const int expected : {1, 3, 7, 15, 31, 63, 63}) {
    pacer.watched(false);
    EXPECT_EQ(skipped(), expected);
  }
  pacer.watched(true);
  EXPECT_EQ(skipped(), 0);
  load.operations = 8;
  EXPECT_FALSE(pacer.may_watch(load)) << "it is throughput that counts";
}

TEST_F(PacerTest, ALongPollHasMovedSomething) {
  EXPECT_FALSE(Pacer::was_long(now, now + microseconds(400)));
  EXPECT_TRUE(Pacer::was_long(now, now + microseconds(401)));
}

}  // namespace
}  // namespace nixl_connect
