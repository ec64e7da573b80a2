#include "engine/settler.h"

#include <gmock/gmock.h>

#include "fake_agents.h"

namespace nixl_connect {
namespace {

using testing::Buffer;
using testing::FakeAgent;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::make_operation;
using ::testing::SizeIs;

class SettlerTest : public testing::FakeAgentsTest {
 protected:
  /// As the engine's loop does at the end of each call.
  void give_back(FakeAgent& agent) {
    const AgentLock::Guard guard(lock);
    agent.settler.give_back(lock);
  }

  AgentLock lock;
};

TEST_F(SettlerTest, TellsCountsGivesBackAndReleases) {
  auto memory = std::make_shared<int>();
  const std::weak_ptr<int> alive = memory;
  const auto offered = owner->offer(source);
  Descriptor descriptor;
  descriptor.owner = std::move(memory);
  offered->flight.local = {descriptor};
  descriptor.owner.reset();
  owner->deadlines.set(offered, Clock::now());
  const auto queue = CompletionQueue::create();
  offered->progress.notify(Milestone::ended, queue, 1);

  owner->settler.settle(offered, Outcome::complete());
  EXPECT_EQ(offered->progress.status(), OperationStatus::complete);
  std::vector<std::uint64_t> tokens;
  queue->drain(tokens);
  EXPECT_THAT(tokens, SizeIs(1));
  EXPECT_TRUE(owner->offers.empty());
  EXPECT_TRUE(owner->deadlines.empty());
  EXPECT_EQ(owner->counters.readable.complete.value(), 1u);
  EXPECT_FALSE(offered->progress.reached(Milestone::released));
  EXPECT_FALSE(alive.expired());
  EXPECT_EQ(owner->registry.size(), 1u) << "given back with that of others";

  give_back(*owner);
  EXPECT_EQ(owner->registry.size(), 0u);
  EXPECT_TRUE(offered->progress.reached(Milestone::released));
  EXPECT_TRUE(alive.expired());
}

TEST_F(SettlerTest, MemoryThatNobodyKeepsAliveIsDeregisteredBeforeAnybodyIsTold) {
  const auto offered = owner->offer(source);
  offered->flight.local = {Descriptor{}};
  owner->settler.settle(offered, Outcome::complete());
  EXPECT_EQ(owner->registry.size(), 0u);
  EXPECT_TRUE(offered->flight.lease.empty());
}

TEST_F(SettlerTest, AnOperationEndsOnce) {
  const auto offered = owner->offer(source);
  offered->progress.finish(OperationStatus::cancelled);
  owner->settler.settle(offered, Outcome::complete());
  EXPECT_EQ(offered->progress.status(), OperationStatus::cancelled);
  EXPECT_EQ(owner->counters.readable.cancelled.value(), 1u);
  EXPECT_EQ(owner->counters.readable.complete.value(), 0u);
  give_back(*owner);
}

TEST_F(SettlerTest, AFailureSaysAfterHowLong) {
  const auto offered = owner->offer(source);
  owner->settler.settle(offered, Outcome::failed({ErrorCode::backend, "broken"}));
  EXPECT_THAT(offered->progress.failure()->message, HasSubstr("broken (after "));
  EXPECT_EQ(owner->counters.readable.errored.value(), 1u);
  OperationStats stats;
  owner->counters.readable.add_to(stats);
  EXPECT_EQ(stats.failures[static_cast<std::size_t>(ErrorCode::backend)], 1u);
  give_back(*owner);
}

TEST_F(SettlerTest, ThePeerThatWaitsIsToldOfTheFailureOrTheCancellation) {
  for (const bool cancelled : {false, true}) {
    const auto offered = owner->offer(source);
    const auto read = FakeAgent::reader_of(*offered, target);
    if (cancelled) read->progress.finish(OperationStatus::cancelled);
    read->flight.peer = reader->peers.admit(read->flight.remote);
    reader->settler.settle(
        read, cancelled ? Outcome::not_posted() : Outcome::broken({ErrorCode::timed_out, "late"}));
    give_back(*reader);
    const auto events = owner->receive();
    ASSERT_THAT(events, SizeIs(1));
    EXPECT_THAT(events[0].outcome.failure->message,
                HasSubstr(cancelled ? "reports 'cancelled'" : "reports 'timed_out'"));
  }
}

TEST_F(SettlerTest, AfterATransferHasFailedNothingGetsThroughToThePeer) {
  const auto offered = owner->offer(source);
  const auto another = owner->offer(source);
  const auto first = FakeAgent::reader_of(*offered, target);
  const auto second = FakeAgent::reader_of(*another, target);
  for (const auto& read : {first, second}) {
    read->flight.peer = reader->peers.admit(read->flight.remote);
  }
  const auto peer = first->flight.peer;
  EXPECT_EQ(second->flight.peer, peer);
  for (const auto& read : {first, second}) {
    reader->settler.settle(read, Outcome::broken({ErrorCode::peer_disconnected, "gone"}));
  }
  EXPECT_TRUE(peer->broken);
  EXPECT_THAT(owner->receive(), SizeIs(1)) << "of the first alone";
  EXPECT_NE(reader->peers.admit(FakeAgent::reader_of(*another, target)->flight.remote), peer)
      << "loaded afresh";
  give_back(*reader);
}

TEST_F(SettlerTest, ThePeerOfAPartIsNotTold) {
  const auto offered = owner->offer(source);
  const auto whole = FakeAgent::reader_of(*offered, target);
  const auto part = make_operation(OperationKind::read, false);
  part->flight.whole = {whole, nullptr};
  part->flight.peer = reader->peers.admit(whole->flight.remote);
  reader->settler.settle(part, Outcome::broken({ErrorCode::backend, "broken"}));
  EXPECT_THAT(owner->receive(), IsEmpty());
  EXPECT_EQ(reader->counters.read.errored.value(), 0u) << "nor does it count";
  give_back(*reader);
}

}  // namespace
}  // namespace nixl_connect
