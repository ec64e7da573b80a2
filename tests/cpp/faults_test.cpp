// Every fault ends in the right status on both sides, and the next operation works.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "agent/nixl_api.h"
#include "fake.h"
#include "wire/notification.h"

namespace nixl_connect {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AnyOf;
using testing::Buffer;
using testing::end_of;
using testing::eventually;

/// How an operation ends when one of the active side's calls fails.
const std::map<std::string, std::string> kErrorsOfTheActiveSide{
    {"register_mem", "backend"},
    {"create_xfer_req", "backend"},
    {"post_xfer_req", "peer_disconnected"},
    {"get_xfer_status", "peer_disconnected"},
};

class Faults : public testing::FakeTest {
 protected:
  Connection offer(const Buffer& buffer, std::chrono::nanoseconds timeout = seconds(30)) {
    return left->create_readable({buffer.descriptor()}, timeout);
  }
  Connection read(const Connection& from, const Buffer& to,
                  std::chrono::nanoseconds timeout = seconds(30)) {
    return right->begin_read(from.metadata(), {to.descriptor()}, timeout);
  }

  Buffer source{1000, 9};
  Buffer target{1000};
};

TEST_F(Faults, TheFakeMovesBytes) {
  expect_works();
  expect_idle();
  for (const int polls : {0, 1, 10}) {
    fake_nixl::end_transfers_after(polls);
    expect_works();
  }
}

TEST_F(Faults, AnErrorAtAnyCallOfThePassiveSide) {
  expect_works();
  for (const char* call : {"register_mem", "get_local_partial_md"}) {
    fake_nixl::fail(call, capi::kBackend);
    const auto failed = offer(source);
    EXPECT_EQ(end_of(failed), "backend") << call;
    EXPECT_THROW(failed.metadata(), Error);
    expect_works();
    expect_idle();
  }
}

TEST_F(Faults, AnErrorAtAnyCallOfTheActiveSide) {
  expect_works();
  for (const auto& [call, code] : kErrorsOfTheActiveSide) {
    const auto from = offer(source);
    from.metadata();
    // A transfer that fails is begun again, once.
    fake_nixl::fail(call, capi::kBackend, std::string(code) == "peer_disconnected" ? 2 : 1);
    EXPECT_EQ(end_of(read(from, target)), code) << call;
    // The passive side is told, and does not wait for its deadline.
    EXPECT_EQ(end_of(from), "remote_failed") << call;
    expect_works();
    expect_idle();
  }
}

TEST_F(Faults, ARefusedLoadIsTriedAfresh) {
  expect_works();
  const Buffer elsewhere(5000, 3);
  const Buffer there(5000);
  // As on RDMA, so that each region is loaded by itself.
  fake_nixl::rotate_keys(true);
  expect_works();
  fake_nixl::fail("load_remote_md", capi::kBackend);
  const auto from = offer(elsewhere);
  EXPECT_EQ(end_of(read(from, there)), "complete");
  EXPECT_EQ(end_of(from), "complete");
  EXPECT_TRUE(elsewhere == there);
}

TEST_F(Faults, APeerThatCannotBeLoadedIsUnreachable) {
  fake_nixl::fail("load_remote_md", capi::kBackend, 2);
  for (int i = 0; i < 2; ++i) {
    const auto from = offer(source);
    const auto metadata = from.metadata();
    const auto read_it = [&] { return end_of(right->begin_read(metadata, {target.descriptor()})); };
    EXPECT_EQ(read_it(), "peer_unreachable");
    EXPECT_EQ(end_of(from), "remote_failed") << "it is told by its table";
    EXPECT_EQ(read_it(), "offer_closed");
  }
  EXPECT_TRUE(eventually([&] { return end_of(read(offer(source), target)) == "complete"; }));
}

TEST_F(Faults, ErrorsWhereNothingCanBeDoneAreHarmless) {
  for (const char* call : {"deregister_mem", "invalidate_remote_md", "get_notifs", "gen_notif"}) {
    fake_nixl::fail(call, capi::kBackend, 5);
    expect_works();
  }
  fake_nixl::reset();
  expect_works();
}

TEST_F(Faults, AgentsThatCannotBeMade) {
  for (const char* call : {"create_configured_agent", "get_plugin_params", "create_backend"}) {
    fake_nixl::fail(call, capi::kBackend, 2);
    Connector connector(testing::fake_options("unlucky"));
    EXPECT_THROW(connector.wait_started(), Error) << call;
    EXPECT_FALSE(connector.started());
    // Each use tries again.
    const auto from = connector.create_readable({source.descriptor()});
    EXPECT_EQ(end_of(from), "backend") << call;
    EXPECT_TRUE(from.wait(Milestone::released, seconds(30)));
    EXPECT_EQ(connector.closed(), false);
    const auto better = connector.create_readable({source.descriptor()});
    EXPECT_TRUE(better.wait(Milestone::ready, seconds(30))) << call;
    EXPECT_TRUE(connector.started());
    EXPECT_EQ(better.failure(), std::nullopt);
  }
}

TEST_F(Faults, TransportsThatLeaveOutGpusAreNamedWhenNoAgentCanBeMade) {
  for (const auto& [transports, named] :
       {std::pair("tcp,self", true), {"tcp,cuda_copy", false}, {"all", false}}) {
    ::setenv("UCX_TLS", transports, 1);
    fake_nixl::fail("create_backend", capi::kBackend);
    Connector connector(testing::fake_options("unlucky"));
    const auto from = connector.create_readable({source.descriptor()});
    EXPECT_EQ(end_of(from), "backend");
    EXPECT_EQ(from.failure()->message.find("which leaves out") != std::string::npos, named)
        << from.failure()->message;
  }
  ::unsetenv("UCX_TLS");
}

TEST_F(Faults, ATransferThatNeverEnds) {
  const auto from = offer(source, milliseconds(500));
  fake_nixl::hold_transfers(true);
  const auto stuck = read(from, target, milliseconds(50));
  EXPECT_EQ(end_of(stuck), "timed_out");
  EXPECT_EQ(end_of(from), "timed_out");
  // NIXL has not let go of the memory, so neither do we.
  EXPECT_FALSE(stuck.reached(Milestone::released));
  EXPECT_TRUE(eventually([&] { return right->stats().registered_regions == 1; }));
  fake_nixl::hold_transfers(false);
  EXPECT_TRUE(stuck.wait(Milestone::released, seconds(30)));
  expect_works();
  expect_idle();
}

TEST_F(Faults, ACancelledTransferKeepsItsMemoryUntilItEnds) {
  auto landing = std::make_unique<Buffer>(1000);
  const std::weak_ptr<std::vector<unsigned char>> memory = landing->bytes;
  const auto from = offer(source);
  fake_nixl::hold_transfers(true);
  {
    const auto flight = read(from, *landing);
    ASSERT_TRUE(flight.wait(Milestone::ready, seconds(30)));
    flight.cancel();
    EXPECT_EQ(end_of(flight), "cancelled");
    landing.reset();
  }
  right->stats();
  EXPECT_FALSE(memory.expired());
  fake_nixl::hold_transfers(false);
  // Every byte went, so the peer is told that it did.
  EXPECT_EQ(end_of(from), "complete");
  EXPECT_TRUE(eventually([&] { return memory.expired(); }));
  expect_idle();
}

TEST_F(Faults, CancelledBeforeItBeginsThePeerIsTold) {
  const auto from = offer(source);
  const auto metadata = from.metadata();
  fake_nixl::delay("load_remote_md", 20'000);
  const auto early = right->begin_read(metadata, {target.descriptor()});
  early.cancel();
  EXPECT_EQ(end_of(early), "cancelled");
  const std::string end = end_of(from);
  EXPECT_TRUE(end == "remote_failed" || end == "complete") << end;
  expect_idle();
}

TEST_F(Faults, LateWritesFindTheMemoryAlive) {
  // As hardware may: a transfer that is released while it runs still writes.
  fake_nixl::write_late(true);
  fake_nixl::hold_transfers(true);
  for (int i = 0; i < 20; ++i) {
    const Buffer landing(1000);
    const auto from = offer(source);
    const auto flight = read(from, landing, milliseconds(5));
    flight.cancel();
  }
  fake_nixl::hold_transfers(false);
  expect_works();
  expect_idle();
}

TEST_F(Faults, AnOfferThatAForeignPeerMayKnowLingers) {
  auto options = testing::fake_options("lingering");
  options.linger = milliseconds(100);
  options.foreign_peers = true;
  Connector connector(options);
  auto buffer = std::make_unique<Buffer>(1000, 4);
  const std::weak_ptr<std::vector<unsigned char>> memory = buffer->bytes;
  {
    const auto untold = connector.create_readable({buffer->descriptor()});
    // Nobody has what is only drafted.
    EXPECT_EQ(untold.draft().notification_key, untold.notification_key());
    untold.cancel();
    EXPECT_EQ(connector.stats().lingering, 0u);
    EXPECT_TRUE(untold.wait(Milestone::released, seconds(30)));
    EXPECT_THROW(untold.draft(), Error);
    EXPECT_THROW(untold.share(), Error);
  }
  const auto from = connector.create_readable({buffer->descriptor()});
  const auto metadata = from.metadata();
  buffer.reset();
  from.cancel();
  EXPECT_EQ(end_of(from), "cancelled");
  EXPECT_FALSE(memory.expired());
  EXPECT_TRUE(eventually([&] { return connector.stats().lingering == 1; }));
  EXPECT_EQ(connector.stats().lingering_bytes, 1000u);
  // Who asks is told.
  EXPECT_EQ(end_of(right->begin_read(metadata, {target.descriptor()})), "offer_closed");
  EXPECT_TRUE(from.wait(Milestone::released, seconds(30)));
  EXPECT_EQ(from.status(), OperationStatus::cancelled);
  EXPECT_TRUE(memory.expired());

  const Buffer another(1000, 5);
  const auto alone = connector.create_readable({another.descriptor()});
  alone.metadata();
  alone.cancel();
  EXPECT_TRUE(alone.wait(Milestone::released, seconds(30)));
}

TEST_F(Faults, NotificationsLostReorderedRepeatedAndForeign) {
  fake_nixl::drop_notifications(1);
  const auto lost = offer(source);
  EXPECT_EQ(end_of(read(lost, target)), "complete");
  EXPECT_EQ(end_of(lost), "complete") << "the table tells";

  fake_nixl::reverse_notifications(true);
  fake_nixl::repeat_notifications(true);
  std::vector<Connection> operations;
  for (int i = 0; i < 50; ++i) {
    auto from = offer(source);
    operations.push_back(read(from, Buffer(1000)));
    operations.push_back(std::move(from));
  }
  for (const auto& operation : operations) EXPECT_EQ(end_of(operation), "complete");

  const auto quiet = offer(source);
  quiet.metadata();
  for (const std::string message :
       {"", "unknown", "nixl_connect/failed/", "nixl_connect/failed/x/unknown", "\xff\xfe"}) {
    fake_nixl::inject_notification("left", message);
  }
  EXPECT_TRUE(eventually([&] { return left->stats().notifications_unknown >= 5; }));
  EXPECT_EQ(quiet.status(), OperationStatus::initialized);
  EXPECT_EQ(end_of(read(quiet, target)), "complete");
  EXPECT_EQ(end_of(quiet), "complete");
  expect_idle();
}

/// Offers of an owner that is so busy that it is patient.
class Patience : public Faults {
 protected:
  static constexpr int kSlowOffers = 64;

  Patience() {
    // What operations take of late.
    for (int round = 0; round < 2; ++round) {
      std::vector<Connection> slow;
      for (int i = 0; i < kSlowOffers; ++i) slow.push_back(offer(source));
      std::this_thread::sleep_for(milliseconds(30));
      for (const auto& from : slow) EXPECT_EQ(end_of(read(from, Buffer(1000))), "complete");
      for (const auto& from : slow) EXPECT_EQ(end_of(from), "complete");
    }
    int patient = 0;
    EXPECT_TRUE(eventually([&] {
      offers.push_back(offer(source, seconds(5)));
      return notice_delay_of(offers.back().notification_key()).count() > 0 && ++patient == 40;
    }));
  }

  std::vector<Connection> read_all() {
    std::vector<Connection> reads;
    for (const auto& from : offers) reads.push_back(read(from, Buffer(1000)));
    return reads;
  }

  std::vector<Connection> offers;
};

TEST_F(Patience, TellsOfManyAtOnce) {
  const auto before = fake_nixl::counts().notifications_sent;
  for (const auto& to : read_all()) EXPECT_EQ(end_of(to), "complete");
  for (const auto& from : offers) EXPECT_EQ(end_of(from), "complete");
  EXPECT_LT(fake_nixl::counts().notifications_sent - before, offers.size());
  // Each is told of once, though late where the reader's engine has had to wait for the processor.
  const auto told = [&] {
    const auto stats = left->stats();
    return stats.notifications_matched + stats.notifications_unknown;
  };
  const auto all = 2 * kSlowOffers + offers.size();
  EXPECT_TRUE(eventually([&] { return told() >= all; }));
  EXPECT_EQ(told(), all);
  expect_idle();
}

TEST_F(Patience, IsNotLostWhenNixlRefusesForAWhile) {
  fake_nixl::fail("gen_notif", capi::kBackend, 3);
  for (const auto& to : read_all()) EXPECT_EQ(end_of(to), "complete");
  for (const auto& from : offers) EXPECT_EQ(end_of(from), "complete");
  expect_idle();
}

TEST_F(Patience, IsNotNeededWhereTheTableTells) {
  fake_nixl::fail("gen_notif", capi::kBackend, 1'000'000);
  for (const auto& to : read_all()) EXPECT_EQ(end_of(to), "complete");
  for (const auto& from : offers) EXPECT_EQ(end_of(from), "complete");
  fake_nixl::reset();
  expect_works();
}

TEST_F(Patience, EndsWithTheConnector) {
  const auto reads = read_all();
  // What ended is told before the agent goes.
  for (const auto& to : reads) EXPECT_EQ(end_of(to), "complete");
  right->close();
  for (const auto& from : offers) EXPECT_EQ(end_of(from), "complete");
}

TEST_F(Faults, KeysThatChangeOnReregistration) {
  fake_nixl::rotate_keys(true);
  for (int round = 0; round < 20; ++round) {
    const Buffer fresh(1000);
    const auto whole = offer(source);
    EXPECT_EQ(end_of(read(whole, fresh)), "complete") << round;
    EXPECT_EQ(end_of(whole), "complete");
    EXPECT_TRUE(source == fresh);
    // An overlap with what is stale by now.
    const Buffer half(500);
    const auto part = left->create_readable({source.part(100, 500)});
    EXPECT_EQ(end_of(right->begin_read(part.metadata(), {half.descriptor()})), "complete");
    EXPECT_EQ(end_of(part), "complete");
  }
  expect_idle();
  EXPECT_LE(fake_nixl::counts().loaded_peers, 1u);
}

TEST_F(Faults, AClashDisturbsNoFlight) {
  fake_nixl::rotate_keys(true);
  const Buffer slow_source(2000, 8);
  const Buffer slow_target(2000);
  const auto slow = left->create_readable({slow_source.descriptor()});
  fake_nixl::hold_transfers(true);
  const auto flight = right->begin_read(slow.metadata(), {slow_target.descriptor()});
  ASSERT_TRUE(flight.wait(Milestone::ready, seconds(30)));
  std::vector<Connection> operations;
  for (int i = 0; i < 10; ++i) {
    // The same memory again and again, each time with another key.
    auto from = offer(source);
    from.metadata();
    auto to = read(from, Buffer(1000));
    EXPECT_TRUE(to.wait(Milestone::ready, seconds(30)));
    operations.push_back(std::move(from));
    operations.push_back(std::move(to));
  }
  EXPECT_FALSE(flight.reached(Milestone::ended));
  fake_nixl::hold_transfers(false);
  for (const auto& operation : operations) EXPECT_EQ(end_of(operation), "complete");
  EXPECT_EQ(end_of(flight), "complete");
  EXPECT_EQ(end_of(slow), "complete");
  EXPECT_TRUE(slow_source == slow_target);
  expect_idle();
}

TEST_F(Faults, APeerThatDiesFailsItsOperationsAlone) {
  Connector doomed(testing::fake_options("doomed"));
  const auto alive = offer(source);
  std::vector<Connection> offers;
  std::vector<Connection> flights;
  fake_nixl::hold_transfers(true);
  for (int i = 0; i < 8; ++i) {
    offers.push_back(doomed.create_readable({source.descriptor()}));
    flights.push_back(right->begin_read(offers.back().metadata(), {Buffer(1000).descriptor()}));
    EXPECT_TRUE(flights.back().wait(Milestone::ready, seconds(30)));
  }
  const auto healthy = read(alive, target);
  const auto late = doomed.create_readable({source.descriptor()});
  const auto metadata = late.metadata();
  fake_nixl::kill("doomed");
  for (const auto& flight : flights) EXPECT_EQ(end_of(flight), "peer_unreachable");
  EXPECT_EQ(end_of(right->begin_read(metadata, {target.descriptor()})), "peer_unreachable");
  fake_nixl::hold_transfers(false);
  EXPECT_EQ(end_of(healthy), "complete");
  EXPECT_EQ(end_of(alive), "complete");
  expect_works();
}

TEST_F(Faults, APeerThatStopsAnswering) {
  expect_works();
  const auto from = offer(source, milliseconds(500));
  const auto metadata = from.metadata();
  fake_nixl::stop("left", true);
  const auto stuck = right->begin_read(metadata, {target.descriptor()}, milliseconds(50));
  EXPECT_EQ(end_of(stuck), "timed_out");
  EXPECT_EQ(end_of(from), "timed_out");
  fake_nixl::stop("left", false);
  expect_works();
  expect_idle();
}

TEST_F(Faults, AWorkerThatComesBackUnderItsName) {
  for (int life = 0; life < 5; ++life) {
    expect_works();
    left = std::make_unique<Connector>(testing::fake_options("left"));
  }
}

TEST_F(Faults, TheDeadlineIsCheckedAfterWhatIsThere) {
  // The engine is held up past the deadline with the completion already there.
  const auto from = offer(source);
  const auto metadata = from.metadata();
  fake_nixl::end_transfers_after(0);
  const auto to = right->begin_read(metadata, {target.descriptor()}, milliseconds(30));
  fake_nixl::delay("post_xfer_req", 0);
  EXPECT_EQ(end_of(to), "complete");
  fake_nixl::delay("create_xfer_req", 60'000);
  const auto second = offer(source);
  const auto held_up = read(second, target, milliseconds(30));
  EXPECT_EQ(end_of(held_up), "complete");
}

TEST_F(Faults, SlowRegistrationHoldsUpNobodyButTheEngine) {
  left->wait_started();
  fake_nixl::delay("register_mem", 10'000);
  // A small one is tried on the spot, and tells that it is slow, for a millisecond or more, which
  // may be over before the next one; and the first may have met an engine that was busy.
  bool was_deferred = false;
  for (int i = 0; i < 100 && !was_deferred; ++i) {
    const auto began = std::chrono::steady_clock::now();
    const Buffer other(1000);
    const auto from = offer(other);
    EXPECT_EQ(from.status(), OperationStatus::initialized);
    was_deferred = !from.reached(Milestone::ready);
    from.metadata();
    EXPECT_GE(std::chrono::steady_clock::now() - began, milliseconds(10));
  }
  EXPECT_TRUE(was_deferred);
}

TEST_F(Faults, RegistrationsAreShared) {
  const auto registration = left->register_memory(source.descriptor());
  const auto before = fake_nixl::counts().register_calls;
  std::vector<Connection> offers;
  for (std::size_t i = 0; i < 100; ++i) {
    offers.push_back(left->create_readable({source.part(i, 900)}));
    offers.back().metadata();
  }
  EXPECT_EQ(fake_nixl::counts().register_calls, before);
  EXPECT_TRUE(eventually([&] { return left->stats().registered_regions == 1; }));
  offers.clear();
  EXPECT_TRUE(eventually([&] { return left->stats().waiting == 0; }));
  EXPECT_EQ(fake_nixl::counts().registered, 1u);
}

TEST_F(Faults, CloseWithEverythingInTheAir) {
  for (const bool held : {false, true}) {
    fake_nixl::hold_transfers(held);
    fake_nixl::write_late(held);
    std::vector<Connection> operations;
    for (int i = 0; i < 256; ++i) {
      auto from = offer(source);
      operations.push_back(read(from, Buffer(1000)));
      operations.push_back(std::move(from));
    }
    right->close();
    left->close();
    for (const auto& operation : operations) {
      const std::string end = end_of(operation);
      EXPECT_TRUE(end == "closed" || end == "complete" || end == "remote_failed" ||
                  end == "peer_unreachable" || end == "peer_disconnected")
          << end;
      EXPECT_TRUE(operation.reached(Milestone::released));
    }
    left = std::make_unique<Connector>(testing::fake_options("left"));
    right = std::make_unique<Connector>(testing::fake_options("right"));
  }
}

/// The active side shares large operations out to two other engines.
class PartFaults : public Faults {
 protected:
  PartFaults() {
    auto options = testing::fake_options("right");
    options.engines = 3;
    right = std::make_unique<Connector>(options);
    right->wait_started();
  }
  const Buffer large{std::size_t{4} << 20, 9};
  const Buffer into{std::size_t{4} << 20};
};

TEST_F(PartFaults, AnErrorInAnyPartIsTheWholesError) {
  EXPECT_EQ(end_of(read(offer(large), into)), "complete");
  EXPECT_TRUE(large == into);
  for (const auto& [call, code] : kErrorsOfTheActiveSide) {
    const auto from = offer(large);
    from.metadata();
    fake_nixl::fail(call, capi::kBackend);
    EXPECT_EQ(end_of(read(from, into)), code) << call;
    EXPECT_EQ(end_of(from), "remote_failed") << call;
    const auto again = offer(large);
    EXPECT_EQ(end_of(read(again, into)), "complete") << call;
    EXPECT_EQ(end_of(again), "complete") << call;
    expect_idle();
  }
}

TEST_F(PartFaults, CancelledAndLateOnesKeepTheirMemoryUntilAllPartsHaveLanded) {
  for (const bool cancelled : {true, false}) {
    SCOPED_TRACE(cancelled);
    fake_nixl::hold_transfers(true);
    const auto from = offer(large);
    const auto to =
        read(from, into, cancelled ? std::chrono::nanoseconds(seconds(30)) : milliseconds(300));
    EXPECT_TRUE(eventually([&] { return right->stats().in_flight >= 2; }));
    if (cancelled) to.cancel();
    EXPECT_EQ(end_of(to), cancelled ? "cancelled" : "timed_out");
    EXPECT_FALSE(to.wait(Milestone::released, milliseconds(50)));
    fake_nixl::hold_transfers(false);
    EXPECT_TRUE(to.wait(Milestone::released, seconds(30)));
    EXPECT_EQ(end_of(from), "remote_failed");
    expect_idle();
  }
}

TEST_F(PartFaults, EndedBeforeTheyBeganTheyTellThePeer) {
  for (int i = 0; i < 20; ++i) {
    const auto from = offer(large);
    EXPECT_EQ(end_of(read(from, into, seconds(0))), "timed_out");
    EXPECT_EQ(end_of(from), "remote_failed");
    expect_idle();
  }
}

TEST_F(PartFaults, RefusedByAClosedConnectorTheyKeepNoMemory) {
  const auto metadata = offer(large).metadata();
  auto owner = std::make_shared<int>();
  const std::weak_ptr<int> kept = owner;
  Descriptor local = into.descriptor();
  local.owner = std::move(owner);
  right->close();
  EXPECT_THROW(static_cast<void>(right->begin_read(metadata, {local})), Error);
  local.owner.reset();
  EXPECT_TRUE(kept.expired());
}

TEST_F(Faults, TheOwnersOfMemoryMayCallBack) {
  expect_works();
  for (const bool closes : {false, true}) {
    std::promise<void> called;
    const Buffer another(1000, 3);
    const auto from = offer(source);
    const auto metadata = from.metadata();
    {
      Descriptor local = target.descriptor();
      local.owner = std::shared_ptr<const void>(&called, [&](const void*) {
        if (closes) {
          right->close();
        } else {
          right->create_readable({another.descriptor()}).cancel();
        }
        called.set_value();
      });
      // Most likely done, and its memory dropped, on this thread.
      right->begin_read(metadata, {std::move(local)}).wait();
    }
    called.get_future().wait();
  }
}

TEST_F(Faults, AMillionWouldLeaveNothingBehind) {
  // The second operation has the peer loaded once more, for notices.
  expect_works();
  expect_works();
  const auto before = fake_nixl::counts();
  for (int i = 0; i < 2000; ++i) {
    const auto from = offer(source);
    const auto to = read(from, target);
    if (i % 7 == 0) to.cancel();
    if (i % 11 == 0) from.cancel();
    to.wait(Milestone::released, seconds(30));
  }
  expect_idle();
  const auto after = fake_nixl::counts();
  EXPECT_EQ(after.agents, before.agents);
  EXPECT_LE(after.loaded_peers, before.loaded_peers);
  EXPECT_LE(after.loaded_regions, before.loaded_regions + 1);
  // What comes late is taken at the next look.
  EXPECT_TRUE(eventually([] { return fake_nixl::counts().notifications == 0; }));
}

}  // namespace
}  // namespace nixl_connect
