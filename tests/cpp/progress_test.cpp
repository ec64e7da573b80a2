#include "engine/progress.h"

#include <gtest/gtest.h>

#include <thread>

#include "engine/request.h"

namespace nixl_connect {
namespace {

using std::chrono::milliseconds;

TEST(Progress, EndsOnce) {
  Progress progress;
  EXPECT_EQ(progress.status(), OperationStatus::initialized);
  progress.make_in_progress();
  EXPECT_EQ(progress.status(), OperationStatus::in_progress);
  EXPECT_TRUE(progress.finish(OperationStatus::cancelled));
  EXPECT_FALSE(progress.finish(OperationStatus::complete));
  EXPECT_FALSE(progress.finish(OperationStatus::errored, Failure{ErrorCode::backend, "late"}));
  progress.make_in_progress();
  EXPECT_EQ(progress.status(), OperationStatus::cancelled);
  EXPECT_FALSE(progress.failure());
}

TEST(Progress, PassesMilestonesInOrder) {
  Progress progress;
  EXPECT_FALSE(progress.reached(Milestone::ready));
  progress.finish(OperationStatus::complete);
  EXPECT_TRUE(progress.reached(Milestone::ready));
  EXPECT_TRUE(progress.reached(Milestone::ended));
  EXPECT_FALSE(progress.reached(Milestone::released));
  progress.make_ready("late", nullptr);
  EXPECT_TRUE(progress.reached(Milestone::ended));
  progress.release();
  EXPECT_TRUE(progress.reached(Milestone::released));
}

TEST(Progress, TellsEachWatcherOnce) {
  Progress progress;
  const auto queue = CompletionQueue::create();
  EXPECT_TRUE(progress.notify(Milestone::ended, queue, 1));
  EXPECT_TRUE(progress.notify(Milestone::ready, queue, 2));
  EXPECT_TRUE(progress.notify(Milestone::ended, queue, 3));
  EXPECT_TRUE(progress.notify(Milestone::released, queue, 4));
  progress.forget(*queue, 3);
  std::vector<std::uint64_t> tokens;
  progress.make_ready("blob", nullptr);
  queue->drain(tokens);
  EXPECT_EQ(tokens, (std::vector<std::uint64_t>{2}));
  progress.finish(OperationStatus::complete);
  progress.release();
  queue->drain(tokens);
  EXPECT_EQ(tokens, (std::vector<std::uint64_t>{2, 1, 4}));
  EXPECT_FALSE(progress.notify(Milestone::ended, queue, 5));
}

TEST(Progress, WaitsWithATimeout) {
  Progress progress;
  EXPECT_FALSE(progress.wait(Milestone::ended, milliseconds(5)));
  std::thread other([&] { progress.finish(OperationStatus::complete); });
  EXPECT_TRUE(progress.wait(Milestone::ended, std::nullopt));
  other.join();
}

TEST(Progress, RacingEndsLeaveOneWinner) {
  for (int round = 0; round < 200; ++round) {
    Progress progress;
    const auto queue = CompletionQueue::create();
    progress.notify(Milestone::ended, queue, 1);
    int winners = 0;
    std::thread other([&] {
      if (progress.finish(OperationStatus::cancelled))
        __atomic_add_fetch(&winners, 1, __ATOMIC_SEQ_CST);
    });
    if (progress.finish(OperationStatus::complete))
      __atomic_add_fetch(&winners, 1, __ATOMIC_SEQ_CST);
    other.join();
    EXPECT_EQ(winners, 1);
    std::vector<std::uint64_t> tokens;
    queue->drain(tokens);
    EXPECT_EQ(tokens.size(), 1u);
  }
}

TEST(Progress, OfAnOfferThatEndsWhileItsMetadataIsTakenOneSideSeesTheOther) {
  for (int round = 0; round < 500; ++round) {
    Progress progress;
    progress.make_ready("blob", nullptr);
    bool taken = false;
    std::thread other([&] { taken = progress.take_metadata(); });
    progress.finish(OperationStatus::cancelled);
    const bool seen = progress.metadata_taken();
    other.join();
    EXPECT_TRUE(seen || !taken) << "a peer may have the metadata, and the engine does not know";
  }
}

TEST(Request, DescribesItself) {
  Request request;
  request.connector = std::make_shared<const std::string>("test");
  request.number = 3;
  request.kind = OperationKind::read;
  request.remote_name = "peer";
  EXPECT_EQ(request.describe(), "read from 'peer' ('test-3')");
  request.passive = true;
  EXPECT_EQ(request.describe(), "readable operation 'test-3'");
  EXPECT_EQ(request.name(), "test-3");
}

}  // namespace
}  // namespace nixl_connect
