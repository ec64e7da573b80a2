#include "engine/deadlines.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "operations.h"

namespace nixl_connect {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::make_operation;

class DeadlinesTest : public ::testing::Test {
 protected:
  std::vector<OperationPtr> due(Clock::duration after) {
    std::vector<OperationPtr> operations;
    deadlines.take_due(start + after, operations);
    return operations;
  }

  const Clock::time_point start{hours(1)};
  Deadlines deadlines;
};

TEST_F(DeadlinesTest, AreTakenInOrderWhenTheirTimeHasCome) {
  const auto first = make_operation();
  const auto second = make_operation();
  EXPECT_EQ(deadlines.next(), Clock::time_point::max());
  deadlines.set(second, start + milliseconds(2));
  deadlines.set(first, start + milliseconds(1));
  EXPECT_EQ(deadlines.next(), start + milliseconds(1));
  EXPECT_THAT(due(milliseconds(0)), IsEmpty());
  EXPECT_THAT(due(milliseconds(1)), ElementsAre(first));
  EXPECT_THAT(due(milliseconds(9)), ElementsAre(second));
  EXPECT_TRUE(deadlines.empty());
}

TEST_F(DeadlinesTest, OfOneOperationThereIsOne) {
  const auto operation = make_operation();
  deadlines.set(operation, start + milliseconds(1));
  deadlines.set(operation, start + milliseconds(5));
  EXPECT_THAT(due(milliseconds(4)), IsEmpty());
  EXPECT_THAT(due(milliseconds(5)), ElementsAre(operation));
  deadlines.set(operation, start);
  deadlines.remove(*operation);
  deadlines.remove(*operation);
  EXPECT_THAT(due(hours(1)), IsEmpty());
}

TEST_F(DeadlinesTest, HoldUpToAnySequence) {
  std::mt19937 random(7);
  std::vector<OperationPtr> operations;
  std::map<Operation*, Clock::time_point> expected;
  for (int i = 0; i < 200; ++i) operations.push_back(make_operation());
  for (int step = 0; step < 5000; ++step) {
    const auto& operation = operations[random() % operations.size()];
    if (random() % 3 == 0) {
      deadlines.remove(*operation);
      expected.erase(operation.get());
    } else {
      const auto when = start + milliseconds(random() % 1000);
      deadlines.set(operation, when);
      expected[operation.get()] = when;
    }
  }
  for (int ms = 0; ms <= 1000; ms += 50) {
    for (const auto& operation : due(milliseconds(ms))) {
      ASSERT_TRUE(expected.contains(operation.get()));
      EXPECT_LE(expected[operation.get()], start + milliseconds(ms));
      EXPECT_FALSE(operation->flight.deadline);
      expected.erase(operation.get());
    }
    for (const auto& entry : expected) EXPECT_GT(entry.second, start + milliseconds(ms));
  }
  EXPECT_TRUE(expected.empty());
}

}  // namespace
}  // namespace nixl_connect
