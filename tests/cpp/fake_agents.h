#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/agent_lock.h"
#include "engine/deadlines.h"
#include "engine/offers.h"
#include "engine/outbox.h"
#include "engine/pacer.h"
#include "engine/settler.h"
#include "engine/transfers.h"
#include "fake_nixl.h"
#include "memory.h"
#include "operations.h"

namespace nixl_connect::testing {

/// One agent on the fake, with the parts of an engine that use it, and no thread.
struct FakeAgent {
  explicit FakeAgent(const std::string& name)
      : agent(NixlApi::load(FAKE_NIXL_LIBRARY, {}), name, "UCX", {}, false) {}

  /// A passive operation, open: for one reader whose claims nobody sees, or for several.
  OperationPtr offer(const Buffer& buffer, std::uint32_t places = 1) {
    auto operation = make_operation(OperationKind::read, true, true, places);
    operation->flight.local_regions = {region_of(buffer)};
    if (places > 1) operation->flight.readers.place = OwnOffers::of_this_process()->take();
    EXPECT_FALSE(offers.open(operation).has_value());
    return operation;
  }
  /// An active operation on what is offered, not begun.
  static OperationPtr reader_of(const Operation& offered, const Buffer& target) {
    auto blob =
        Blob::parse(decode_nixl_metadata(offered.progress.nixl_metadata(MetadataEncoding::base64)));
    Request request;
    request.connector = std::make_shared<const std::string>("reader");
    request.kind = OperationKind::read;
    request.key = offered.request.key;
    request.remote_name = blob->agent();
    request.began = Clock::now();
    auto operation = std::make_shared<Operation>(std::move(request));
    operation->flight.local_regions = {region_of(target)};
    operation->flight.remote =
        RemoteOffer::resolve(std::move(blob), "UCX", offered.flight.local_regions);
    return operation;
  }
  static Region region_of(const Buffer& buffer) {
    return {kDram, 0, reinterpret_cast<std::uintptr_t>(buffer.bytes->data()), buffer.bytes->size()};
  }

  std::vector<Event> poll() {
    std::vector<Event> events;
    transfers.poll(Clock::time_point::max(), events);
    return events;
  }
  /// What the notifications that have come say.
  std::vector<Event> receive() {
    std::vector<std::pair<std::string, std::string>> messages;
    agent.take_notifications(messages);
    std::vector<Event> events;
    for (const auto& [sender, message] : messages) {
      offers.take(sender, Notice::read(message), Clock::now(), events);
    }
    return events;
  }

  Agent agent;
  MemoryRegistry registry{agent};
  PeerTable peers{agent, "UCX", 1000, 1000};
  EngineCounters counters;
  Outbox outbox{agent, peers, counters};
  Offers offers{agent, registry, std::nullopt, 1 << 20};
  Admission admission{peers, outbox};
  Transfers transfers{agent, registry, peers, offers};
  Deadlines deadlines;
  Pacer pacer{std::chrono::microseconds(200), std::chrono::milliseconds(10), Clock::now()};
  Settler settler{{counters, registry, peers, outbox, offers, admission, deadlines, pacer}};
};

/// Two of them; the fake is clean before and empty after each test.
class FakeAgentsTest : public ::testing::Test {
 protected:
  FakeAgentsTest() {
    fake_nixl::reset();
    owner = std::make_unique<FakeAgent>("owner");
    reader = std::make_unique<FakeAgent>("reader");
  }
  void TearDown() override {
    fake_nixl::reset();
    owner.reset();
    reader.reset();
    EXPECT_EQ(fake_nixl::counts().agents, 0u);
    EXPECT_EQ(fake_nixl::counts().requests, 0u);
  }

  const Buffer source{1000, 9};
  const Buffer target{1000};
  std::unique_ptr<FakeAgent> owner;
  std::unique_ptr<FakeAgent> reader;
};

}  // namespace nixl_connect::testing
