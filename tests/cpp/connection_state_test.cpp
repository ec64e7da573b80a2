#include "engine/connection_state.h"

#include <gtest/gtest.h>

#include <thread>

#include "engine/engine.h"

namespace nixl_connect {
namespace {

using std::chrono::milliseconds;

std::shared_ptr<ConnectionState> make_state() {
  auto state = std::make_shared<ConnectionState>();
  ConnectorOptions options;
  options.name = "test";
  state->engine = std::make_shared<Engine>(options);
  state->number = 3;
  state->kind = OperationKind::read;
  return state;
}

TEST(ConnectionState, EndsOnce) {
  const auto state = make_state();
  EXPECT_EQ(state->status(), OperationStatus::initialized);
  state->make_in_progress();
  EXPECT_EQ(state->status(), OperationStatus::in_progress);
  EXPECT_TRUE(state->finish(OperationStatus::cancelled));
  EXPECT_FALSE(state->finish(OperationStatus::complete));
  EXPECT_FALSE(state->finish(OperationStatus::errored, Failure{ErrorCode::backend, "late"}));
  state->make_in_progress();
  EXPECT_EQ(state->status(), OperationStatus::cancelled);
  EXPECT_FALSE(state->failure());
}

TEST(ConnectionState, PassesMilestonesInOrder) {
  const auto state = make_state();
  EXPECT_FALSE(state->reached(Milestone::ready));
  state->finish(OperationStatus::complete);
  EXPECT_TRUE(state->reached(Milestone::ready));
  EXPECT_TRUE(state->reached(Milestone::ended));
  EXPECT_FALSE(state->reached(Milestone::released));
  state->make_ready("late", nullptr);
  EXPECT_TRUE(state->reached(Milestone::ended));
  state->let_go();
  EXPECT_TRUE(state->reached(Milestone::released));
}

TEST(ConnectionState, TellsEachWatcherOnce) {
  const auto state = make_state();
  const auto queue = CompletionQueue::create();
  EXPECT_TRUE(state->notify(Milestone::ended, queue, 1));
  EXPECT_TRUE(state->notify(Milestone::ready, queue, 2));
  EXPECT_TRUE(state->notify(Milestone::ended, queue, 3));
  EXPECT_TRUE(state->notify(Milestone::released, queue, 4));
  state->forget(*queue, 3);
  std::vector<std::uint64_t> tokens;
  state->make_ready("blob", nullptr);
  queue->drain(tokens);
  EXPECT_EQ(tokens, (std::vector<std::uint64_t>{2}));
  state->finish(OperationStatus::complete);
  state->let_go();
  queue->drain(tokens);
  EXPECT_EQ(tokens, (std::vector<std::uint64_t>{2, 1, 4}));
  EXPECT_FALSE(state->notify(Milestone::ended, queue, 5));
}

TEST(ConnectionState, WaitsWithATimeout) {
  const auto state = make_state();
  EXPECT_FALSE(state->wait(Milestone::ended, milliseconds(5)));
  std::thread other([&] { state->finish(OperationStatus::complete); });
  EXPECT_TRUE(state->wait(Milestone::ended, std::nullopt));
  other.join();
}

TEST(ConnectionState, RacingEndsLeaveOneWinner) {
  for (int round = 0; round < 200; ++round) {
    const auto state = make_state();
    const auto queue = CompletionQueue::create();
    state->notify(Milestone::ended, queue, 1);
    int winners = 0;
    std::thread other([&] {
      if (state->finish(OperationStatus::cancelled))
        __atomic_add_fetch(&winners, 1, __ATOMIC_SEQ_CST);
    });
    if (state->finish(OperationStatus::complete)) __atomic_add_fetch(&winners, 1, __ATOMIC_SEQ_CST);
    other.join();
    EXPECT_EQ(winners, 1);
    std::vector<std::uint64_t> tokens;
    queue->drain(tokens);
    EXPECT_EQ(tokens.size(), 1u);
  }
}

TEST(ConnectionState, DescribesItself) {
  const auto state = make_state();
  state->remote_name = "peer";
  EXPECT_EQ(state->describe(), "read from 'peer' ('test-3')");
  state->passive = true;
  EXPECT_EQ(state->describe(), "readable operation 'test-3'");
}

}  // namespace
}  // namespace nixl_connect
