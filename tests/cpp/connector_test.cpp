#include "nixl_connect/connector.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "eventually.h"
#include "memory.h"
#include "system/rdma_devices.h"

namespace nixl_connect {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Buffer;
using testing::eventually;

ConnectorOptions named(const std::string& name) {
  ConnectorOptions options;
  options.name = name;
  return options;
}

ErrorCode code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "nothing was thrown";
  return ErrorCode::backend;
}

class ConnectorTest : public ::testing::Test {
 protected:
  Connector left{named("left")};
  Connector right{named("right")};
};

TEST_F(ConnectorTest, ReadsAndWrites) {
  for (const std::size_t size : {std::size_t{1}, std::size_t{4096}, std::size_t{8} << 20}) {
    const Buffer source(size, 7);
    const Buffer target(size);
    const auto offer = left.create_readable({source.descriptor()});
    const auto read = right.begin_read(offer.metadata(), {target.descriptor()});
    ASSERT_TRUE(read.wait(seconds(30)));
    ASSERT_TRUE(offer.wait(seconds(30)));
    EXPECT_TRUE(source == target);
    EXPECT_EQ(read.status(), OperationStatus::complete);

    const Buffer back(size);
    const auto wanted = left.create_writable({back.descriptor()});
    const auto write =
        right.begin_write({target.descriptor()}, wanted.metadata(MetadataEncoding::hex));
    ASSERT_TRUE(write.wait(seconds(30)));
    ASSERT_TRUE(wanted.wait(seconds(30)));
    EXPECT_TRUE(source == back);
  }
}

TEST_F(ConnectorTest, BytesServeAsMetadata) {
  const Buffer source(10'000, 7);
  const Buffer target(10'000);
  const auto offer = left.create_readable({source.descriptor()});
  const std::string bytes = offer.metadata_bytes();
  EXPECT_EQ(bytes, to_bytes(offer.metadata()));
  EXPECT_EQ(bytes, offer.draft_bytes());
  const auto read = right.begin_read(bytes, {target.descriptor()});
  ASSERT_TRUE(read.wait(seconds(30)));
  ASSERT_TRUE(offer.wait(seconds(30)));
  EXPECT_TRUE(source == target);

  const Buffer back(10'000);
  const auto wanted = left.create_writable({back.descriptor()});
  const auto write = right.begin_write({target.descriptor()}, wanted.metadata_bytes());
  ASSERT_TRUE(write.wait(seconds(30)));
  ASSERT_TRUE(wanted.wait(seconds(30)));
  EXPECT_TRUE(source == back);
  EXPECT_THROW(right.begin_read("no metadata", {target.descriptor()}), Error);
  EXPECT_THROW(right.begin_read(bytes.substr(0, 40), {target.descriptor()}), Error);
}

/// Two connectors that share large operations out.
class Copiers : public ::testing::Test {
 protected:
  static ConnectorOptions options(const std::string& name) {
    ConnectorOptions options = named(name);
    options.engines = 3;
    return options;
  }
  Connector left{options("left")};
  Connector right{options("right")};
};

TEST_F(Copiers, ShareOutWhatIsLarge) {
  constexpr std::size_t kMiB = 1 << 20;
  for (const std::size_t size : {std::size_t{1}, kMiB - 1, kMiB, kMiB + 1, 2 * kMiB - 1,
                                 2 * kMiB + 4095, 3 * kMiB, 33 * kMiB + 7}) {
    const Buffer source(size, 7);
    const Buffer target(size);
    const auto offer = left.create_readable({source.descriptor()});
    const auto read = right.begin_read(offer.metadata(), {target.descriptor()});
    ASSERT_TRUE(read.wait(seconds(30)));
    ASSERT_TRUE(offer.wait(seconds(30)));
    ASSERT_TRUE(source == target) << size;

    const Buffer back(size);
    const auto wanted = left.create_writable({back.descriptor()});
    const auto write = right.begin_write({target.descriptor()}, wanted.metadata());
    ASSERT_TRUE(write.wait(seconds(30)));
    ASSERT_TRUE(wanted.wait(seconds(30)));
    ASSERT_TRUE(source == back) << size;
    ASSERT_TRUE(write.wait(Milestone::released, seconds(30)));
  }
  const auto stats = right.stats();
  EXPECT_EQ(stats.read.complete + stats.write.complete, 16u);
  EXPECT_EQ(stats.registered_regions, 0u);
}

TEST_F(Copiers, ShareOutLists) {
  std::vector<Buffer> sources;
  std::vector<Buffer> targets;
  std::vector<Descriptor> from;
  std::vector<Descriptor> to;
  for (unsigned i = 0; i < 300; ++i) {
    const std::size_t size = i % 7 == 0 ? 200'000 + i : 1000 + i;
    sources.emplace_back(size, i + 1);
    targets.emplace_back(size);
    from.push_back(sources.back().descriptor());
    to.push_back(targets.back().descriptor());
  }
  const auto offer = left.create_readable(from);
  const auto read = right.begin_read(offer.metadata(), to);
  ASSERT_TRUE(read.wait(seconds(30)));
  ASSERT_TRUE(offer.wait(seconds(30)));
  for (std::size_t i = 0; i < sources.size(); ++i) ASSERT_TRUE(sources[i] == targets[i]) << i;
}

TEST_F(Copiers, UseMemoryThatIsRegistered) {
  const Buffer source(std::size_t{8} << 20, 7);
  const Buffer target(source.bytes->size());
  auto held = left.register_memory(source.descriptor());
  EXPECT_EQ(left.stats().registered_regions, 3u);
  const auto offer = left.create_readable({source.descriptor()});
  const auto read = right.begin_read(offer.metadata(), {target.descriptor()});
  ASSERT_TRUE(read.wait(seconds(30)));
  ASSERT_TRUE(offer.wait(seconds(30)));
  EXPECT_TRUE(source == target);
  EXPECT_EQ(left.stats().registered_regions, 3u);
  held.reset();
  // By each engine in its turn.
  EXPECT_TRUE(eventually([&] { return left.stats().registered_regions == 0; }));
}

TEST_F(Copiers, EndWhatTheyHaveWhenTheConnectorCloses) {
  const Buffer source(std::size_t{64} << 20, 7);
  const Buffer target(source.bytes->size());
  const auto offer = left.create_readable({source.descriptor()});
  const auto metadata = offer.metadata();
  const auto read = right.begin_read(metadata, {target.descriptor()});
  right.close();
  EXPECT_TRUE(read.reached(Milestone::ended));
  EXPECT_TRUE(read.reached(Milestone::released));
  // Either way the owner learns of it.
  ASSERT_TRUE(offer.wait(Milestone::ended, seconds(30)));
}

TEST(CopierOptions, AreChecked) {
  for (const std::size_t engines : {std::size_t{0}, std::size_t{65}}) {
    auto options = named("many");
    options.engines = engines;
    EXPECT_EQ(code_of([&] { Connector connector(options); }), ErrorCode::invalid_argument);
  }
}

TEST_F(ConnectorTest, IsDrivenByItsCaller) {
  left.wait_started();
  right.wait_started();
  // In an emulated machine large ones take long.
  const bool is_emulated = std::getenv("NIXL_CONNECT_TEST_RDMA") != nullptr;
  for (const std::size_t size : {std::size_t{1}, std::size_t{4096}, std::size_t{8} << 20}) {
    const Buffer source(size, 7);
    const Buffer target(size);
    const int rounds = is_emulated && size > 4096 ? 10 : 50;
    for (int i = 0; i < rounds; ++i) {
      const auto offer = left.create_readable({source.descriptor()});
      while (!offer.reached(Milestone::ready)) left.progress();
      const auto read = right.begin_read(offer.metadata(), {target.descriptor()});
      while (!read.reached(Milestone::ended) || !offer.reached(Milestone::ended)) {
        left.progress();
        right.progress();
      }
      ASSERT_EQ(read.status(), OperationStatus::complete);
      ASSERT_EQ(offer.status(), OperationStatus::complete);
      ASSERT_TRUE(source == target);
    }
    // Its thread takes over when its caller has stopped.
    const auto offer = left.create_readable({source.descriptor()});
    const auto read = right.begin_read(offer.metadata(), {target.descriptor()});
    const auto queue = CompletionQueue::create();
    if (!offer.notify(Milestone::ended, queue, 1)) queue->push(1);
    pollfd fd{queue->fd(), POLLIN, 0};
    EXPECT_EQ(::poll(&fd, 1, 30'000), 1);
  }
  left.close();
  EXPECT_FALSE(left.progress());
}

TEST_F(ConnectorTest, ManyAtOnceInBothDirectionsAndToItself) {
  struct Flight {
    Buffer source, target;
    Connection offer, read;
  };
  std::vector<Flight> flights;
  for (unsigned i = 0; i < 256; ++i) {
    Connector& owner = i % 2 == 0 ? left : right;
    Connector& mover = i % 3 == 0 ? left : right;
    Buffer source(1 + i * 13, i + 1);
    Buffer target(1 + i * 13);
    auto offer = owner.create_readable({source.descriptor()});
    auto read = mover.begin_read(offer.metadata(), {target.descriptor()});
    flights.push_back({source, target, std::move(offer), std::move(read)});
  }
  for (const Flight& flight : flights) {
    ASSERT_TRUE(flight.read.wait(seconds(30)));
    ASSERT_TRUE(flight.offer.wait(seconds(30)));
    EXPECT_TRUE(flight.source == flight.target);
  }
}

TEST_F(ConnectorTest, CompletionsReachAPollLoop) {
  const auto queue = CompletionQueue::create();
  const Buffer source(100, 1);
  const Buffer target(100);
  const auto offer = left.create_readable({source.descriptor()});
  ASSERT_TRUE(offer.notify(Milestone::ended, queue, 1));
  const auto read = right.begin_read(offer.metadata(), {target.descriptor()});
  const bool pending = read.notify(Milestone::ended, queue, 2);
  std::vector<std::uint64_t> tokens;
  while (tokens.size() < (pending ? 2u : 1u)) {
    pollfd fd{queue->fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&fd, 1, 30'000), 1);
    queue->drain(tokens);
  }
  EXPECT_TRUE(source == target);
  EXPECT_FALSE(read.notify(Milestone::ended, queue, 3));
}

TEST_F(ConnectorTest, OneBufferManyOperations) {
  const Buffer source(10'000, 3);
  const Buffer target(10'000);
  const auto registration = left.register_memory(source.descriptor());
  std::vector<Connection> operations;
  for (std::size_t at = 0; at < 10'000; at += 1000) {
    auto offer = left.create_readable({source.part(at, 1000)});
    operations.push_back(right.begin_read(offer.metadata(), {target.part(at, 1000)}));
    operations.push_back(std::move(offer));
  }
  for (const auto& operation : operations) ASSERT_TRUE(operation.wait(seconds(30)));
  EXPECT_TRUE(source == target);
}

/// How many of a hundred offers of so many bytes were ready when the call returned.
int ready_at_once(Connector& connector, std::size_t size) {
  const Buffer source(size);
  int ready = 0;
  for (int i = 0; i < 100; ++i) {
    const auto offer = connector.create_readable({source.descriptor()});
    ready += static_cast<int>(offer.reached(Milestone::ready));
  }
  return ready;
}

TEST_F(ConnectorTest, LargeMemoryIsOfferedByItsCallerWhereNothingPinsIt) {
  const std::size_t large = std::size_t{8} << 20;
  ConnectorOptions by_engine = named("engine");
  by_engine.inline_limit = 0;
  Connector engine(std::move(by_engine));
  left.wait_started();
  engine.wait_started();
  EXPECT_LT(ready_at_once(engine, large), 50);
  if (registering_pins()) GTEST_SKIP() << "registering large memory takes time here";
  EXPECT_GT(ready_at_once(left, large), 50);
}

TEST_F(ConnectorTest, MemoryIsLetGoAtTheEnd) {
  std::weak_ptr<std::vector<unsigned char>> gone;
  {
    const Buffer source(100, 1);
    const Buffer target(100);
    gone = source.bytes;
    const auto offer = left.create_readable({source.descriptor()});
    const auto read = right.begin_read(offer.metadata(), {target.descriptor()});
    ASSERT_TRUE(offer.wait(Milestone::released, seconds(30)));
  }
  EXPECT_TRUE(gone.expired());
}

TEST_F(ConnectorTest, AHandleThatGoesWithdrawsItsOffer) {
  auto buffer = std::make_unique<Buffer>(100, 1);
  const std::weak_ptr<std::vector<unsigned char>> gone = buffer->bytes;
  { const auto offer = left.create_readable({buffer->descriptor()}); }
  buffer.reset();
  EXPECT_TRUE(eventually([&] { return gone.expired(); }));
}

TEST_F(ConnectorTest, DeadlinesAndCancels) {
  const Buffer buffer(100, 1);
  const auto late = left.create_readable({buffer.descriptor()}, milliseconds(20));
  EXPECT_EQ(code_of([&] { late.wait(); }), ErrorCode::timed_out);
  const auto cancelled = left.create_readable({buffer.descriptor()});
  EXPECT_FALSE(cancelled.wait(milliseconds(1)));
  cancelled.cancel();
  EXPECT_TRUE(cancelled.wait());
  EXPECT_EQ(cancelled.status(), OperationStatus::cancelled);
  const auto patient = left.create_readable({buffer.descriptor()}, milliseconds(-1));
  EXPECT_FALSE(patient.wait(milliseconds(1)));
}

TEST_F(ConnectorTest, WrongUse) {
  const Buffer buffer(100, 1);
  const Descriptor good = buffer.descriptor();
  EXPECT_EQ(code_of([&] { static_cast<void>(left.create_readable({})); }),
            ErrorCode::invalid_argument);
  EXPECT_EQ(code_of([&] { static_cast<void>(left.create_readable({{0, 1, {}, nullptr}})); }),
            ErrorCode::invalid_argument);
  EXPECT_EQ(code_of([&] { static_cast<void>(left.create_readable({{1, 0, {}, nullptr}})); }),
            ErrorCode::invalid_argument);
  EXPECT_EQ(code_of([&] { static_cast<void>(left.create_readable({{~0ull, 2, {}, nullptr}})); }),
            ErrorCode::invalid_argument);
  const auto offer = left.create_readable({good});
  EXPECT_EQ(code_of([&] { static_cast<void>(right.begin_write({good}, offer.metadata())); }),
            ErrorCode::rejected_metadata);
  EXPECT_EQ(code_of([&] { static_cast<void>(right.begin_read(offer.metadata(), {good, good})); }),
            ErrorCode::invalid_argument);
  EXPECT_EQ(
      code_of([&] { static_cast<void>(right.begin_read(offer.metadata(), {buffer.part(0, 99)})); }),
      ErrorCode::invalid_argument);
  // What arrives twice at one place arrives in no order.
  const std::vector<Descriptor> twice{buffer.part(0, 50), buffer.part(50, 50), buffer.part(49, 50)};
  EXPECT_EQ(code_of([&] { static_cast<void>(left.create_writable(twice)); }),
            ErrorCode::invalid_argument);
  const auto thrice = left.create_readable(twice);
  EXPECT_EQ(code_of([&] { static_cast<void>(right.begin_read(thrice.metadata(), twice)); }),
            ErrorCode::invalid_argument);
  EXPECT_EQ(code_of([&] { Connector(named("")); }), ErrorCode::invalid_argument);
  EXPECT_EQ(code_of([&] { Connector(named(std::string(4080, 'x'))); }),
            ErrorCode::invalid_argument);
  EXPECT_NO_THROW(Connector(named(std::string(4079, 'x'))));
}

TEST(Descriptor, OfMemoryThatMayNotBeWritten) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  void* const memory =
      ::mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* const bytes = static_cast<char*>(memory);
  bytes[1] = 5;
  const auto at = [&](std::size_t offset, std::size_t size, Device device = {}) {
    return Descriptor{reinterpret_cast<std::uintptr_t>(bytes) + offset, size, device, nullptr};
  };
  EXPECT_TRUE(is_writable(at(1, 2 * page - 1)));
  ASSERT_EQ(::mprotect(bytes + page, page, PROT_READ), 0);
  EXPECT_TRUE(is_writable(at(3, page - 3)));
  EXPECT_FALSE(is_writable(at(3, page - 2)));
  EXPECT_FALSE(is_writable(at(page, 1)));
  EXPECT_TRUE(is_writable(at(page, 1, {DeviceKind::cuda, 0})));
  EXPECT_EQ(bytes[1], 5);
  ::munmap(memory, 2 * page);
  EXPECT_FALSE(is_writable(at(1, 1)));
}

TEST_F(ConnectorTest, CloseEndsEverything) {
  const Buffer buffer(100, 1);
  std::vector<Connection> offers;
  for (int i = 0; i < 100; ++i) offers.push_back(left.create_readable({buffer.descriptor()}));
  std::thread waiter([&] { EXPECT_EQ(code_of([&] { offers[0].wait(); }), ErrorCode::closed); });
  left.close();
  left.close();
  waiter.join();
  for (const auto& offer : offers) {
    EXPECT_EQ(offer.status(), OperationStatus::errored);
    EXPECT_TRUE(offer.reached(Milestone::released));
  }
  EXPECT_EQ(code_of([&] { static_cast<void>(left.create_readable({buffer.descriptor()})); }),
            ErrorCode::closed);
  EXPECT_TRUE(left.closed());
}

TEST(Connector, WithoutNixlSaysSoAtItsUse) {
  auto options = named("nowhere");
  options.nixl_library = "/nonexistent/libnixl_capi.so";
  Connector connector(options);
  EXPECT_EQ(code_of([&] { connector.wait_started(); }), ErrorCode::nixl_not_found);
  EXPECT_EQ(code_of([&] { connector.agent_metadata(); }), ErrorCode::nixl_not_found);
  const Buffer buffer(10);
  const auto offer = connector.create_readable({buffer.descriptor()});
  EXPECT_EQ(code_of([&] { offer.wait(seconds(30)); }), ErrorCode::nixl_not_found);
  EXPECT_EQ(code_of([&] { offer.metadata(); }), ErrorCode::nixl_not_found);
}

TEST(Connector, TwoConnectorsOfOneNameAreTwoAgents) {
  Connector first(named("same"));
  Connector second(named("same"));
  const Buffer source(100, 5);
  const Buffer target(100);
  const auto offer = first.create_readable({source.descriptor()});
  const auto read = second.begin_read(offer.metadata(), {target.descriptor()});
  EXPECT_TRUE(read.wait(seconds(30)));
  EXPECT_TRUE(source == target);
  EXPECT_NE(offer.name(), "");
}

}  // namespace
}  // namespace nixl_connect
