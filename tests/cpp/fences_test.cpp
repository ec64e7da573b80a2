#include "engine/fences.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "operations.h"

namespace nixl_connect {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::make_operation;

constexpr auto kNoLimit = Clock::time_point::max();

class FencesTest : public ::testing::Test {
 protected:
  OperationPtr fenced(std::vector<Fence> by, bool small = true) {
    auto operation = make_operation(OperationKind::read, true, small);
    operation->flight.fences = std::move(by);
    fences.add(operation);
    return operation;
  }
  std::vector<OperationPtr> poll(Clock::time_point until = kNoLimit) {
    std::vector<OperationPtr> passed;
    fences.poll(until, passed);
    return passed;
  }

  Fences fences;
};

TEST_F(FencesTest, PassWhenAllHaveOnceSaidSo) {
  bool first = false;
  bool second = false;
  int asked = 0;
  const auto operation = fenced({[&] { return first; },
                                 [&] {
                                   ++asked;
                                   return second;
                                 }});
  EXPECT_EQ(operation->flight.phase, Phase::fenced);
  first = true;
  EXPECT_THAT(poll(), IsEmpty());
  first = false;
  second = true;
  EXPECT_THAT(poll(), IsEmpty()) << "the first was not asked while the second had not passed";
  second = false;
  first = true;
  EXPECT_THAT(poll(), ElementsAre(operation)) << "the second had passed";
  EXPECT_EQ(asked, 2);
  EXPECT_EQ(operation->flight.phase, Phase::fresh);
  EXPECT_TRUE(fences.empty());
}

TEST_F(FencesTest, ThatThrowEndTheOperation) {
  const auto operation = fenced({[]() -> bool { throw std::runtime_error("lost"); }});
  EXPECT_THAT(poll(), ElementsAre(operation));
  EXPECT_THAT(operation->progress.failure()->message, HasSubstr("lost"));
  const auto other = fenced({[]() -> bool { throw 5; }});
  EXPECT_THAT(poll(), ElementsAre(other));
  EXPECT_EQ(other->progress.status(), OperationStatus::errored);
}

TEST_F(FencesTest, OfAnOperationThatHasEndedAreNotAsked) {
  bool asked = false;
  const auto operation = fenced({[&] { return asked = true; }});
  operation->progress.finish(OperationStatus::cancelled);
  EXPECT_THAT(poll(), ElementsAre(operation));
  EXPECT_FALSE(asked);
  EXPECT_TRUE(operation->flight.fences.empty());
}

TEST_F(FencesTest, GoOnInTurnWhenTheTimeIsUp) {
  std::vector<OperationPtr> all;
  for (int i = 0; i < 3; ++i) all.push_back(fenced({[] { return true; }}));
  const Clock::time_point past{};
  EXPECT_THAT(poll(past), ElementsAre(all[0])) << "one at least";
  EXPECT_THAT(poll(past), ElementsAre(all[1]));
  EXPECT_THAT(poll(past), ElementsAre(all[2]));
}

TEST_F(FencesTest, CountTheLarge) {
  bool open = false;
  fenced({[&] { return open; }}, false);
  fenced({[&] { return open; }}, true);
  EXPECT_EQ(fences.large(), 1u);
  EXPECT_EQ(fences.size(), 2u);
  open = true;
  poll();
  EXPECT_EQ(fences.large(), 0u);
}

TEST_F(FencesTest, AskEachOnceAPollHoweverManyPass) {
  constexpr int kMany = 32'000;
  int asked = 0;
  bool open = false;
  for (int i = 0; i < kMany; ++i) {
    fenced({[&asked, &open, i] {
      ++asked;
      return open && i % 2 == 0;
    }});
  }
  EXPECT_THAT(poll(), IsEmpty());
  EXPECT_EQ(asked, kMany);
  open = true;
  EXPECT_EQ(poll().size(), kMany / 2u);
  EXPECT_EQ(asked, 2 * kMany);
  EXPECT_EQ(fences.size(), kMany / 2u);
}

}  // namespace
}  // namespace nixl_connect
