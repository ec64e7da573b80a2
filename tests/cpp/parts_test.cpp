#include "engine/parts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "operations.h"

namespace nixl_connect {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

/// An engine that keeps what it is given.
struct Recorder final : EnginePort {
  void submit(OperationPtr operation) override {
    if (closed) throw Error(ErrorCode::closed, "closed");
    submitted.push_back(std::move(operation));
  }
  bool submit_if_open(OperationPtr operation) override {
    again.push_back(std::move(operation));
    return !closed;
  }
  void part_ended(OperationPtr whole, std::optional<Failure> failure) override {
    ended.emplace_back(std::move(whole), std::move(failure));
  }

  bool closed = false;
  std::vector<OperationPtr> submitted;
  std::vector<OperationPtr> again;
  std::vector<std::pair<OperationPtr, std::optional<Failure>>> ended;
};

OperationPtr make_whole(std::vector<Region> local, std::vector<Region> remote) {
  Request request;
  request.connector = std::make_shared<const std::string>("test");
  request.kind = OperationKind::read;
  request.key = "key";
  for (const Region& region : local) request.bytes += region.size;
  auto whole = std::make_shared<Operation>(std::move(request));
  whole->flight.local = {Descriptor{}};
  whole->flight.local_regions = std::move(local);
  whole->flight.remote.regions = std::move(remote);
  whole->flight.remote.remote_keys.assign(whole->flight.remote.regions.size(), "key");
  return whole;
}

std::size_t bytes_of(const Operation& operation) {
  const auto& regions = operation.flight.local_regions;
  return std::accumulate(regions.begin(), regions.end(), std::size_t{0},
                         [](std::size_t sum, const Region& region) { return sum + region.size; });
}

class PartsTest : public ::testing::Test {
 protected:
  /// An operation and its parts hold one another until they are released.
  void TearDown() override {
    for (const auto& engine : {home, first, second}) {
      const auto submitted = std::exchange(engine->submitted, {});
      for (const auto& operation : submitted) operation->release();
    }
    for (const auto& whole : wholes) whole->release();
    for (const auto& engine : {home, first, second}) engine->ended.clear();
  }
  OperationPtr whole_of(std::vector<Region> local, std::vector<Region> remote) {
    wholes.push_back(make_whole(std::move(local), std::move(remote)));
    return wholes.back();
  }

  /// An operation on 5 MiB in three regions, cut for two engines.
  OperationPtr cut() {
    constexpr std::size_t kMiB = std::size_t{1} << 20;
    const std::vector<Region> regions{{kDram, 0, 0x10000000, 2 * kMiB},
                                      {kDram, 0, 0x20000000, kMiB + 100},
                                      {kDram, 0, 0x30000000, 2 * kMiB - 100}};
    auto whole = whole_of(regions, regions);
    cut_for_engines(*whole, engines, 1);
    return whole;
  }

  std::shared_ptr<Recorder> home = std::make_shared<Recorder>();
  std::shared_ptr<Recorder> first = std::make_shared<Recorder>();
  std::shared_ptr<Recorder> second = std::make_shared<Recorder>();
  std::vector<std::shared_ptr<EnginePort>> engines{first, second};
  std::vector<OperationPtr> wholes;
  Parts parts;
};

TEST_F(PartsTest, OfALargeOperationCoverAllButItsLastBytes) {
  const auto whole = cut();
  ASSERT_THAT(whole->flight.parts, SizeIs(2));
  EXPECT_EQ(whole->flight.parts[0].engine, second) << "in turn, from the one that was named";
  EXPECT_EQ(bytes_of(*whole), 4096u);
  std::size_t shared = 0;
  for (const auto& [part, engine] : whole->flight.parts) {
    shared += bytes_of(*part);
    EXPECT_EQ(part->flight.local_regions, part->flight.remote.regions);
    EXPECT_EQ(part->flight.remote.remote_keys.size(), part->flight.remote.regions.size());
    EXPECT_THAT(part->flight.local, SizeIs(1)) << "keeps the memory alive";
    EXPECT_TRUE(part->request.key.empty()) << "the peer hears of the whole";
  }
  EXPECT_EQ(shared + 4096, whole->request.bytes);
}

TEST_F(PartsTest, OfSeveralKindsOfMemoryAreOneForEachPairing) {
  const Region host{kDram, 0, 0x1000, 100};
  const Region gpu{kVram, 0, 0x2000, 100};
  const Region small{kVram, 0, 0x3000, 10};
  const auto whole = whole_of({host, gpu, host, small}, {host, host, host, small});
  cut_by_type(*whole, home);
  EXPECT_THAT(whole->flight.local_regions, ElementsAre(small)) << "the fewest bytes";
  ASSERT_THAT(whole->flight.parts, SizeIs(2));
  EXPECT_THAT(whole->flight.parts[0].operation->flight.local_regions, ElementsAre(host, host));
  EXPECT_THAT(whole->flight.parts[1].operation->flight.local_regions, ElementsAre(gpu));
  EXPECT_EQ(whole->flight.parts[1].engine, home);

  const auto plain = whole_of({host, host}, {gpu, gpu});
  cut_by_type(*plain, home);
  EXPECT_THAT(plain->flight.parts, IsEmpty());
}

TEST_F(PartsTest, TheLastOneThatEndsLetsTheWholeGoOn) {
  const auto whole = cut();
  EXPECT_THAT(parts.send(whole, home), IsEmpty());
  EXPECT_EQ(whole->flight.phase, Phase::split);
  EXPECT_TRUE(whole->progress.reached(Milestone::ready));
  ASSERT_THAT(first->submitted, SizeIs(1));
  ASSERT_THAT(second->submitted, SizeIs(1));
  for (const auto& engine : {first, second}) {
    engine->submitted[0]->progress.finish(OperationStatus::complete);
    engine->submitted[0]->release();
  }
  ASSERT_THAT(home->ended, SizeIs(2));
  EXPECT_EQ(home->ended[0].first, whole);
  EXPECT_FALSE(parts.ended(whole, home->ended[0].second));
  EXPECT_TRUE(parts.ended(whole, home->ended[1].second));
  EXPECT_EQ(whole->flight.phase, Phase::fresh);
  EXPECT_THAT(whole->flight.parts, IsEmpty());
  EXPECT_TRUE(parts.empty());
  EXPECT_FALSE(whole->progress.ended()) << "its last bytes are left";
}

TEST_F(PartsTest, AFailureIsTheWholesAndCancelsTheOthers) {
  const auto whole = cut();
  parts.send(whole, home);
  const auto other = whole->flight.parts[1].operation;
  EXPECT_FALSE(parts.ended(whole, Failure{ErrorCode::backend, "broken"}));
  EXPECT_EQ(whole->progress.failure()->message, "broken");
  EXPECT_EQ(other->progress.status(), OperationStatus::cancelled);
  EXPECT_THAT(first->again, ElementsAre(other)) << "its engine cleans up";
  EXPECT_TRUE(parts.ended(whole, std::nullopt));
}

TEST_F(PartsTest, OfAnOperationThatHasEndedAreSentAsCancelled) {
  const auto whole = cut();
  whole->progress.finish(OperationStatus::cancelled);
  parts.send(whole, home);
  for (const auto& engine : {first, second}) {
    ASSERT_THAT(engine->submitted, SizeIs(1));
    EXPECT_EQ(engine->submitted[0]->progress.status(), OperationStatus::cancelled);
  }
}

TEST_F(PartsTest, AnEngineThatIsClosedRefusesIts) {
  first->closed = true;
  const auto whole = cut();
  const auto refused = parts.send(whole, home);
  ASSERT_THAT(refused, SizeIs(1));
  EXPECT_EQ(refused[0]->progress.failure()->code, ErrorCode::closed);
  refused[0]->release();
  EXPECT_THAT(home->ended, IsEmpty()) << "whoever sent it knows";
}

TEST_F(PartsTest, OfTheSameEngineAreReportedByItself) {
  const Region host{kDram, 0, 0x1000, 100};
  const Region gpu{kVram, 0, 0x2000, 50};
  const auto whole = whole_of({host, gpu}, {host, gpu});
  cut_by_type(*whole, home);
  parts.send(whole, home);
  ASSERT_THAT(home->submitted, SizeIs(1));
  EXPECT_EQ(home->submitted[0]->flight.whole.operation, whole);
  EXPECT_EQ(home->submitted[0]->flight.whole.engine, nullptr);
  home->submitted[0]->release();
  EXPECT_THAT(home->ended, IsEmpty());
}

}  // namespace
}  // namespace nixl_connect
