// Who may let go of what, where and when: connectors, registrations, offers and their memory.
#include <gtest/gtest.h>

#include <future>
#include <mutex>
#include <set>

#include "fake.h"

namespace nixl_connect {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Buffer;
using testing::end_of;
using testing::eventually;

class Lifetimes : public testing::FakeTest {
 protected:
  static Descriptor owned(const Buffer& buffer, std::function<void()> when_let_go) {
    Descriptor descriptor = buffer.descriptor();
    descriptor.owner = std::shared_ptr<const void>(
        buffer.bytes.get(),
        [bytes = buffer.bytes, act = std::move(when_let_go)](const void*) { act(); });
    return descriptor;
  }
  static std::vector<std::uint64_t> drained(CompletionQueue& queue) {
    std::vector<std::uint64_t> tokens;
    queue.drain(tokens);
    return tokens;
  }

  Buffer source{1000, 9};
  Buffer target{1000};
};

TEST_F(Lifetimes, TheLastConnectorMayGoOnTheEnginesThread) {
  const Buffer large(std::size_t{1} << 20, 3);
  const auto offer = right->create_readable({large.descriptor()});
  const auto metadata = offer.metadata();
  for (int round = 0; round < 20; ++round) {
    std::promise<void> gone;
    fake_nixl::end_transfers_after(20);
    {
      auto connector = std::make_shared<Connector>(testing::fake_options("short-lived"));
      const Buffer into(std::size_t{1} << 20);
      Descriptor local = owned(into, [connector, &gone]() mutable {
        connector.reset();
        gone.set_value();
      });
      // It runs to its end unwatched, and the memory's owner is the last that has the connector.
      static_cast<void>(connector->begin_read(metadata, {std::move(local)}));
    }
    gone.get_future().wait();
  }
  offer.cancel();
  EXPECT_TRUE(eventually([] { return fake_nixl::counts().agents == 1; }))
      << "an engine whose connector is gone ends by itself";
}

TEST_F(Lifetimes, WhatIsCancelledMayGoInThatCall) {
  left->wait_started();
  right->wait_started();
  for (int round = 0; round < 50; ++round) {
    auto connector = std::make_shared<Connector>(testing::fake_options("gone"));
    connector->wait_started();
    auto offer = std::make_shared<std::optional<Connection>>();
    std::atomic<bool> gone{false};
    *offer = connector->create_readable({owned(source, [connector, offer, &gone]() mutable {
      offer->reset();
      connector.reset();
      gone = true;
    })});
    EXPECT_TRUE((*offer)->wait(Milestone::ready, seconds(30)));
    // The owner of the memory has the last handles on both.
    const Connection& last = **offer;
    connector.reset();
    offer.reset();
    last.cancel();
    EXPECT_TRUE(eventually([&] { return gone.load(); }));
  }
  // The engine's thread, on which the last one went, lets its agent go once it has returned.
  EXPECT_TRUE(eventually([] { return fake_nixl::counts().agents == 2; }));
}

TEST_F(Lifetimes, AConnectionMayOutliveItsConnector) {
  left->wait_started();
  auto offer = left->create_readable({source.descriptor()});
  offer.metadata();
  left.reset();
  EXPECT_EQ(end_of(offer), "closed");
  EXPECT_TRUE(offer.wait(Milestone::released, seconds(30)));
  offer.cancel();
}

TEST_F(Lifetimes, TheOwnerOfRegisteredMemoryMayCloseTheConnector) {
  for (const bool driven : {false, true}) {
    Connector connector(testing::fake_options("closing"));
    std::promise<void> gone;
    auto registration = connector.register_memory(owned(source, [&] {
      connector.close();
      gone.set_value();
    }));
    auto future = gone.get_future();
    if (driven) connector.progress();
    registration.reset();
    while (future.wait_for(milliseconds(1)) != std::future_status::ready) {
      if (driven) connector.progress();
    }
  }
}

TEST_F(Lifetimes, AnOwnerMayCloseWhileAnotherThreadDoes) {
  for (const std::size_t engines : {1u, 3u}) {
    auto options = testing::fake_options("closing");
    options.engines = engines;
    Connector connector(options);
    std::atomic<int> closed{0};
    std::vector<Connection> offers;
    const Buffer large(std::size_t{2} << 20);
    for (const Buffer& buffer : {source, large, large, source}) {
      offers.push_back(connector.create_readable({owned(buffer, [&] {
        connector.close();
        ++closed;
      })}));
      EXPECT_TRUE(offers.back().wait(Milestone::ready, seconds(30)));
    }
    connector.close();
    for (const auto& offer : offers) EXPECT_TRUE(offer.wait(Milestone::released, seconds(30)));
    EXPECT_EQ(closed, 4);
  }
}

TEST_F(Lifetimes, AnOwnerThatWaitsOnTheEnginesThreadIsRefused) {
  Connector connector(testing::fake_options("waiting"));
  std::promise<std::vector<ErrorCode>> caught;
  std::optional<Connection> other = connector.create_readable({source.descriptor()});
  auto registration = connector.register_memory(owned(target, [&] {
    std::vector<ErrorCode> codes;
    const auto note = [&](const std::function<void()>& call) {
      try {
        call();
      } catch (const Error& error) {
        codes.push_back(error.code());
      }
    };
    note([&] { connector.register_memory(source.descriptor()); });
    note([&] { connector.agent_metadata(); });
    note([&] { other->wait(); });
    EXPECT_FALSE(other->wait(milliseconds(1))) << "a timeout is an end";
    caught.set_value(codes);
  }));
  registration.reset();
  EXPECT_EQ(caught.get_future().get(), std::vector<ErrorCode>(3, ErrorCode::invalid_state));
  other.reset();
}

TEST_F(Lifetimes, AResetIsNotOvertakenByWhatTheCallerBeginsThen) {
  left->wait_started();
  expect_works();
  for (int round = 0; round < 2000; ++round) {
    auto registration = left->register_memory(source.descriptor());
    const auto before = fake_nixl::counts().register_calls;
    registration.reset();
    // Other memory at the same address, for all that the library knows.
    const auto offer = left->create_readable({source.descriptor()});
    offer.metadata();
    ASSERT_EQ(fake_nixl::counts().register_calls, before + 1) << round;
  }
}

TEST_F(Lifetimes, AResetSaysWhenItHasHappened) {
  for (const std::size_t engines : {1u, 3u}) {
    auto options = testing::fake_options("resetting");
    options.engines = engines;
    Connector connector(options);
    const auto queue = CompletionQueue::create();
    auto registration = connector.register_memory(source.descriptor());
    EXPECT_EQ(fake_nixl::counts().registered, engines);
    fake_nixl::delay("deregister_mem", 5'000);
    EXPECT_TRUE(registration.reset(queue, 4));
    EXPECT_FALSE(registration);
    EXPECT_FALSE(registration.reset(queue, 5));
    std::vector<std::uint64_t> tokens;
    EXPECT_TRUE(eventually([&] { return !(tokens = drained(*queue)).empty(); }));
    EXPECT_EQ(tokens, (std::vector<std::uint64_t>{4}));
    EXPECT_EQ(fake_nixl::counts().registered, 0u);
    fake_nixl::delay("deregister_mem", 0);
  }
}

TEST_F(Lifetimes, AResetWhileTheConnectorClosesSaysSoWhenTheAgentHasGone) {
  for (int round = 0; round < 20; ++round) {
    auto connector = std::make_unique<Connector>(testing::fake_options("closing"));
    const auto queue = CompletionQueue::create();
    auto registration = connector->register_memory(source.descriptor());
    std::thread closer([&] { connector->close(); });
    registration.reset(queue, 1);
    EXPECT_TRUE(eventually([&] { return !drained(*queue).empty(); }));
    EXPECT_EQ(fake_nixl::counts().registered, 0u);
    closer.join();
  }
}

TEST_F(Lifetimes, AnOfferThatIsWithdrawnWhileItsMetadataIsTakenLingersOrRefuses) {
  auto options = testing::fake_options("lingering");
  options.linger = milliseconds(2000);
  options.foreign_peers = true;
  Connector connector(options);
  for (int round = 0; round < 300; ++round) {
    auto offer = connector.create_readable({source.descriptor()});
    std::thread canceller([&] { offer.cancel(); });
    bool taken = false;
    try {
      offer.metadata();
      taken = true;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::cancelled);
    }
    canceller.join();
    EXPECT_FALSE(taken && offer.reached(Milestone::released)) << round;
  }
}

TEST_F(Lifetimes, OfManyWaitersTwoPollAndTheOthersSleep) {
  auto options = testing::fake_options("waited-for");
  options.spin = seconds(20);
  Connector connector(options);
  connector.wait_started();
  const auto offer = connector.create_readable({source.descriptor()});
  const auto metadata = offer.metadata();
  std::mutex mutex;
  std::set<std::thread::id> polling;
  fake_nixl::watch([&](const std::string& function) {
    const std::lock_guard lock(mutex);
    if (function == "get_notifs") polling.insert(std::this_thread::get_id());
  });
  std::vector<std::thread> waiters;
  for (int i = 0; i < 50; ++i) {
    waiters.emplace_back([&] { EXPECT_EQ(end_of(offer), "complete"); });
  }
  std::this_thread::sleep_for(milliseconds(50));
  fake_nixl::watch(nullptr);
  EXPECT_LE(polling.size(), 3u) << "two waiters and the engine's thread";
  const auto read = right->begin_read(metadata, {target.descriptor()});
  for (auto& waiter : waiters) waiter.join();
  EXPECT_EQ(end_of(read), "complete");
}

TEST_F(Lifetimes, AStoppedPeerHoldsUpNobodyElse) {
  expect_works();
  Connector stopped(testing::fake_options("stopped"));
  std::vector<Connection> offers;
  std::vector<Connection> stuck;
  for (int i = 0; i < 300; ++i) {
    offers.push_back(stopped.create_readable({source.descriptor()}));
    offers.back().metadata();
  }
  fake_nixl::stop("stopped", true);
  for (const auto& offer : offers) {
    stuck.push_back(right->begin_read(offer.metadata(), {Buffer(1000).descriptor()}));
  }
  for (const auto& read : stuck) EXPECT_TRUE(read.wait(Milestone::ready, seconds(30)));
  const auto before = fake_nixl::counts();
  const auto healthy = left->create_readable({source.descriptor()});
  EXPECT_EQ(end_of(right->begin_read(healthy.metadata(), {target.descriptor()}, seconds(5))),
            "complete");
  EXPECT_TRUE(source == target);
  EXPECT_GE(fake_nixl::counts().requests, before.requests) << "those of the stopped peer are there";
  for (const auto& read : stuck) read.cancel();
}

}  // namespace
}  // namespace nixl_connect
