// Offers for one peer, for several, for any number, and those that are declined; on the stand-in.
#include <gmock/gmock.h>

#include <cstdlib>

#include "claims/claim.h"
#include "fake.h"

namespace nixl_connect {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Buffer;
using testing::end_of;
using testing::eventually;
using ::testing::HasSubstr;

/// With the owner's table, and as where it cannot be reached.
class Readers : public testing::FakeTest, public ::testing::WithParamInterface<bool> {
 protected:
  Readers() {
    if (GetParam()) {
      ::setenv("NIXL_CONNECT_CLAIMS", "messages", 1);
    } else {
      ::unsetenv("NIXL_CONNECT_CLAIMS");
    }
    left = std::make_unique<Connector>(testing::fake_options("left"));
    right = std::make_unique<Connector>(testing::fake_options("right"));
  }
  void TearDown() override {
    FakeTest::TearDown();
    ::unsetenv("NIXL_CONNECT_CLAIMS");
  }

  Connection offer(std::uint32_t readers) {
    return left->create_readable({source.descriptor()}, seconds(30), {}, readers);
  }
  std::string read(const RdmaMetadata& metadata) {
    const Buffer target(1000);
    const auto end = end_of(right->begin_read(metadata, {target.descriptor()}));
    EXPECT_TRUE(end != "complete" || source == target);
    return end;
  }

  const Buffer source{1000, 9};
};

TEST_P(Readers, OneIsTheDefault) {
  const auto one = left->create_readable({source.descriptor()});
  const auto metadata = one.metadata();
  EXPECT_EQ(read(metadata), "complete");
  EXPECT_EQ(end_of(one), "complete");
  EXPECT_EQ(one.readers_done(), 1u);
  EXPECT_EQ(read(metadata), "offer_closed");
  expect_works();
  expect_idle();
}

TEST_P(Readers, SoManyCompleteIt) {
  const auto three = offer(3);
  const auto metadata = three.metadata();
  for (std::uint32_t i = 1; i <= 3; ++i) {
    EXPECT_EQ(read(metadata), "complete");
    EXPECT_TRUE(three.wait_for_readers(i, seconds(30)));
    EXPECT_EQ(three.readers_done(), i);
    EXPECT_TRUE(i == 3 || three.status() == OperationStatus::in_progress);
  }
  EXPECT_EQ(end_of(three), "complete");
  EXPECT_EQ(read(metadata), "offer_closed");
  expect_idle();
}

TEST_P(Readers, AnyNumberUntilItIsWithdrawn) {
  const auto weights = offer(kAnyNumber);
  const auto metadata = weights.metadata();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(read(metadata), "complete");
  EXPECT_TRUE(weights.wait_for_readers(20, seconds(30)));
  weights.cancel();
  EXPECT_TRUE(weights.wait(Milestone::released, seconds(5))) << "at once, as nobody is at it";
  EXPECT_EQ(read(metadata), "offer_closed");
  EXPECT_EQ(end_of(weights), "cancelled");
  expect_idle();
}

TEST_P(Readers, MoreAtOnceThanASlotHasEntriesTakeTurns) {
  expect_works();
  expect_works();
  fake_nixl::hold_transfers(true);
  const auto weights = offer(kAnyNumber);
  const auto metadata = weights.metadata();
  std::vector<Connection> reads;
  for (std::size_t i = 0; i < 3 * OfferSlot::kClaims; ++i) {
    reads.push_back(right->begin_read(metadata, {Buffer(1000).descriptor()}));
  }
  reads[20].cancel();
  EXPECT_FALSE(reads[19].wait(Milestone::ended, milliseconds(20)));
  fake_nixl::hold_transfers(false);
  for (std::size_t i = 0; i < reads.size(); ++i) {
    EXPECT_EQ(end_of(reads[i]), i == 20 ? "cancelled" : "complete") << i;
    EXPECT_TRUE(reads[i].wait(Milestone::released, seconds(30)));
  }
  weights.cancel();
  EXPECT_TRUE(weights.wait(Milestone::released, seconds(30)));
  expect_idle();
}

TEST_P(Readers, OneThatFailsDoesNotEndTheOthers) {
  const auto two = offer(2);
  const auto metadata = two.metadata();
  fake_nixl::fail("register_mem", -2);
  EXPECT_EQ(read(metadata), "backend");
  EXPECT_TRUE(eventually([&] { return two.readers_failed() == 1; }));
  EXPECT_EQ(two.status(), OperationStatus::in_progress);
  EXPECT_EQ(read(metadata), "complete");
  EXPECT_EQ(end_of(two), "remote_failed");
  EXPECT_THAT(two.failure()->message, HasSubstr("1 of 2 peers have failed"));
  EXPECT_EQ(two.readers_done(), 1u);
  EXPECT_TRUE(two.wait(Milestone::released, seconds(5)));
}

TEST_P(Readers, AreWaitedForUntilTheOperationEnds) {
  const auto two = offer(2);
  two.metadata();
  EXPECT_FALSE(two.wait_for_readers(1, milliseconds(20)));
  const auto queue = CompletionQueue::create();
  EXPECT_TRUE(two.notify_readers(1, queue, 7));
  two.cancel();
  EXPECT_FALSE(two.wait_for_readers(1, seconds(30)));
  std::vector<std::uint64_t> tokens;
  queue->drain(tokens);
  EXPECT_THAT(tokens, ::testing::ElementsAre(7));
  EXPECT_FALSE(two.notify_readers(1, queue, 8));
}

TEST_P(Readers, AnImpossibleNumberIsRefused) {
  for (const std::uint32_t number : {0u, kAnyNumber + 1}) {
    try {
      offer(number);
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
      EXPECT_THAT(error.what(), HasSubstr("readers: expected at least one"));
    }
  }
}

TEST_P(Readers, ARefusalEndsTheOwnersWait) {
  const auto one = offer(1);
  const auto metadata = one.metadata();
  const auto refusal = right->decline(metadata, "sizes/do not\nfit");
  EXPECT_EQ(end_of(refusal), "complete");
  EXPECT_EQ(end_of(one), "remote_failed");
  EXPECT_THAT(one.failure()->message, HasSubstr("'sizes_do not_fit'"));
  EXPECT_TRUE(one.wait(Milestone::released, seconds(5)));
  EXPECT_EQ(read(metadata), "offer_closed");
  EXPECT_EQ(right->stats().read.complete, 0u) << "it moves nothing";
  expect_works();
  expect_idle();
}

TEST_P(Readers, WhatIsInFlightKeepsAnOfferThatIsWithdrawn) {
  expect_works();
  expect_works();
  fake_nixl::hold_transfers(true);
  const auto one = offer(1);
  const auto reading = right->begin_read(one.metadata(), {Buffer(1000).descriptor()});
  EXPECT_TRUE(eventually([&] { return one.status() == OperationStatus::in_progress; }));
  EXPECT_TRUE(reading.wait(Milestone::ready, seconds(30)));
  one.cancel();
  EXPECT_TRUE(eventually([&] { return left->stats().lingering == 1; }));
  EXPECT_FALSE(one.wait(Milestone::released, milliseconds(300)));
  fake_nixl::hold_transfers(false);
  EXPECT_EQ(end_of(reading), "complete");
  EXPECT_TRUE(one.wait(Milestone::released, seconds(30)));
  expect_idle();
}

TEST_P(Readers, WhatIsInUseWhenTheConnectorClosesIsKept) {
  if (GetParam()) GTEST_SKIP() << "what is claimed by messages is reached by the agent only";
  std::weak_ptr<std::vector<unsigned char>> memory;
  std::optional<Connection> one;
  Claims claims;
  std::unique_ptr<Claim> claim;
  {
    auto options = testing::fake_options("closing");
    options.close_grace = milliseconds(50);
    Connector closing(options);
    const Buffer buffer(1000, 3);
    memory = buffer.bytes;
    one.emplace(closing.create_readable({buffer.descriptor()}));
    const auto location = OfferLocation::of_key(one->metadata().notification_key);
    ASSERT_TRUE(location);
    ASSERT_EQ(claims.claim(*location, claim), Claims::Answer::granted);
  }
  EXPECT_EQ(end_of(*one), "closed");
  EXPECT_FALSE(one->wait(Milestone::released, milliseconds(100)));
  EXPECT_FALSE(memory.expired());
  claim->done();
  EXPECT_TRUE(one->wait(Milestone::released, seconds(30)));
  EXPECT_TRUE(eventually([&] { return memory.expired(); }));
}

TEST_P(Readers, AClaimIsMadeAgainWhenItOrItsAnswerIsLost) {
  if (!GetParam()) GTEST_SKIP() << "no message, no loss";
  const auto two = offer(2);
  for (const int after : {0, 1}) {
    fake_nixl::drop_notifications(1, after);
    EXPECT_EQ(read(two.metadata()), "complete");
  }
  EXPECT_EQ(end_of(two), "complete");
  EXPECT_EQ(two.readers_done(), 2u);
  expect_idle();
}

TEST_P(Readers, AnOwnerThatDiesWithoutAnAnswerIsGone) {
  if (!GetParam()) GTEST_SKIP() << "its table is looked at";
  const auto several = offer(3);
  EXPECT_EQ(read(several.metadata()), "complete");
  EXPECT_EQ(read(several.metadata()), "complete");
  fake_nixl::stop("left", true);
  const Buffer target(1000);
  const auto reading = right->begin_read(several.metadata(), {target.descriptor()});
  EXPECT_FALSE(reading.wait(Milestone::ended, std::chrono::milliseconds(1500)));
  fake_nixl::kill("left");
  EXPECT_EQ(end_of(reading), "peer_disconnected");
}

TEST_P(Readers, ThoseOfABrokenEndpointFailTogetherIfTheOwnerIsSilent) {
  if (!GetParam()) GTEST_SKIP() << "its table is looked at";
  constexpr int kMany = 8;
  for (const bool dead : {false, true}) {
    SCOPED_TRACE(dead);
    // A peer that no operation has reached could not be reached; one that has disconnects.
    Buffer reached(1000);
    EXPECT_EQ(end_of(right->begin_read(offer(1).metadata(), {reached.descriptor()})), "complete");
    const auto many = offer(kMany);
    const auto metadata = many.metadata();
    fake_nixl::hold_transfers(true);
    std::vector<std::pair<Buffer, Connection>> reads;
    for (int i = 0; i < kMany; ++i) {
      Buffer target(1000);
      auto connection = right->begin_read(metadata, {target.descriptor()}, seconds(60));
      reads.emplace_back(std::move(target), std::move(connection));
    }
    for (const auto& [target, reading] : reads) {
      EXPECT_TRUE(eventually([&] { return reading.status() == OperationStatus::in_progress; }));
    }
    fake_nixl::stop("left", dead);
    fake_nixl::fail("get_xfer_status", -2, kMany);
    fake_nixl::hold_transfers(dead);
    for (const auto& [target, reading] : reads) {
      EXPECT_EQ(end_of(reading), dead ? "peer_disconnected" : "complete");
      EXPECT_TRUE(dead || source == target);
    }
    fake_nixl::stop("left", false);
    fake_nixl::hold_transfers(false);
    EXPECT_EQ(end_of(many), dead ? "remote_failed" : "complete");
  }
  expect_idle();
}

INSTANTIATE_TEST_SUITE_P(Claims, Readers, ::testing::Bool(), [](const auto& instance) {
  return instance.param ? "ByMessages" : "InTheTable";
});

}  // namespace
}  // namespace nixl_connect
