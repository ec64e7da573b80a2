// Memory of GPUs, and work that operations wait for; on the stand-ins for the CUDA driver and NIXL.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <mutex>
#include <set>

#include "agent/nixl_api.h"
#include "fake.h"
#include "gpu_memory.h"

namespace nixl_connect {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Buffer;
using testing::end_of;
using testing::eventually;
using testing::GpuMemory;
using ::testing::HasSubstr;

constexpr int kIllegalAddress = 700;

class Gpu : public testing::FakeTest {
 protected:
  void TearDown() override {
    FakeTest::TearDown();
    EXPECT_EQ(fake_cuda_events(), 0);
    EXPECT_EQ(fake_cuda_broken_captures(), 0);
    EXPECT_EQ(fake_cuda_current_device(), -1);
    fake_cuda_reset();
  }

  static std::string refusal(const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& error) {
      return std::string(to_string(error.code())) + ": " + error.what();
    }
    return "nothing was refused";
  }

  /// A fence, and what opens it.
  struct Gate {
    std::shared_ptr<std::atomic<bool>> open = std::make_shared<std::atomic<bool>>(false);
    Fence fence() const {
      return [open = open] { return open->load(); };
    }
    /// Whether nobody holds the fence any more.
    bool forgotten() const { return open.use_count() == 1; }
  };
};

// What an operation waits for.

TEST_F(Gpu, AnOfferCannotBeToldBeforeItsFence) {
  const Gate first, second;
  const Buffer source(1000, 9);
  const auto offer =
      left->create_readable({source.descriptor()}, seconds(30), {first.fence(), second.fence()});
  EXPECT_FALSE(offer.wait(Milestone::ready, milliseconds(30)));
  *second.open = true;
  EXPECT_FALSE(offer.wait(Milestone::ready, milliseconds(30)));
  EXPECT_TRUE(eventually([&] { return left->stats().fenced == 1; }));
  *first.open = true;
  EXPECT_TRUE(offer.wait(Milestone::ready, seconds(30)));
  EXPECT_TRUE(eventually([&] { return first.forgotten() && second.forgotten(); }));
  EXPECT_TRUE(eventually([&] { return left->stats().fenced == 0; }));

  const Buffer target(1000);
  EXPECT_EQ(end_of(right->begin_read(offer.metadata(), {target.descriptor()})), "complete");
  EXPECT_TRUE(source == target);
}

TEST_F(Gpu, NothingIsPostedBeforeItsFence) {
  expect_works();
  for (const std::size_t size : {std::size_t{1000}, std::size_t{1} << 20}) {
    const Gate gate;
    const Buffer source(size, 9);
    const Buffer target(size);
    const auto offer = left->create_writable({target.descriptor()});
    const auto write =
        right->begin_write({source.descriptor()}, offer.metadata(), seconds(30), {gate.fence()});
    EXPECT_FALSE(offer.wait(Milestone::ended, milliseconds(30)));
    EXPECT_EQ(write.status(), OperationStatus::initialized);
    EXPECT_EQ(fake_nixl::counts().requests, 0u);
    *gate.open = true;
    EXPECT_EQ(end_of(write), "complete");
    EXPECT_EQ(end_of(offer), "complete");
    EXPECT_TRUE(source == target);
  }
}

TEST_F(Gpu, OthersPassWhatWaits) {
  const Gate gate;
  const Buffer source(1000, 9);
  const auto offer = left->create_readable({source.descriptor()}, seconds(30), {gate.fence()});
  for (int i = 0; i < 20; ++i) expect_works();
  EXPECT_FALSE(offer.reached(Milestone::ready));
}

TEST_F(Gpu, WhatWaitsCanBeCancelled) {
  const Gate gate;
  const Buffer buffer(1000);
  auto offer = left->create_readable({buffer.descriptor()}, seconds(30), {gate.fence()});
  EXPECT_FALSE(offer.wait(Milestone::ready, milliseconds(5)));
  offer.cancel();
  EXPECT_EQ(end_of(offer), "cancelled");
  EXPECT_TRUE(offer.wait(Milestone::released, seconds(30)));
  EXPECT_TRUE(eventually([&] { return gate.forgotten(); }));

  const auto target = left->create_writable({buffer.descriptor()});
  auto write =
      right->begin_write({buffer.descriptor()}, target.metadata(), seconds(30), {gate.fence()});
  EXPECT_FALSE(write.wait(Milestone::ended, milliseconds(5)));
  write.cancel();
  // Its peer is told, and does not wait for its own deadline.
  EXPECT_EQ(end_of(target), "remote_failed");
  EXPECT_TRUE(write.wait(Milestone::released, seconds(30)));
  expect_idle();
}

TEST_F(Gpu, ADeadlineHoldsWhileItWaits) {
  const Gate gate;
  const Buffer buffer(1000);
  const auto offer = left->create_readable({buffer.descriptor()}, milliseconds(20), {gate.fence()});
  EXPECT_EQ(end_of(offer), "timed_out");
  EXPECT_THAT(offer.failure()->message, HasSubstr("the work that it waits for is not done"));
  EXPECT_THROW(offer.metadata(), Error);
  expect_idle();
}

TEST_F(Gpu, AFenceThatThrowsFailsTheOperation) {
  const Buffer buffer(1000);
  const auto offer =
      left->create_readable({buffer.descriptor()}, seconds(30),
                            {[]() -> bool { throw std::runtime_error("the kernel is ill"); }});
  EXPECT_EQ(end_of(offer), "backend");
  EXPECT_THAT(offer.failure()->message, HasSubstr("the kernel is ill"));
  const auto other =
      left->create_readable({buffer.descriptor()}, seconds(30), {[]() -> bool { throw 1; }});
  EXPECT_EQ(end_of(other), "backend");
  expect_works();
  expect_idle();
}

TEST_F(Gpu, WhatWaitsEndsWithTheConnector) {
  const Gate gate;
  const Buffer buffer(1000);
  const auto target = left->create_writable({buffer.descriptor()});
  const auto offer = right->create_readable({buffer.descriptor()}, seconds(30), {gate.fence()});
  const auto write =
      right->begin_write({buffer.descriptor()}, target.metadata(), seconds(30), {gate.fence()});
  right->close();
  EXPECT_EQ(end_of(offer), "closed");
  EXPECT_EQ(end_of(write), "closed");
  EXPECT_TRUE(offer.reached(Milestone::released));
  EXPECT_TRUE(write.reached(Milestone::released));
  EXPECT_EQ(end_of(target), "remote_failed");
}

// Streams.

TEST_F(Gpu, WithoutItsStreamAnOfferIsReadTooSoon) {
  GpuMemory source(1000);
  GpuMemory target(1000, 1);
  void* const stream = fake_cuda_stream_create(0);
  const auto read_back = [&](std::vector<Fence> after) {
    const bool waits = !after.empty();
    fake_cuda_launch_fill(stream, 0, source.address, 7, source.size);
    const auto offer = left->create_readable({source.descriptor()}, seconds(30), std::move(after));
    if (waits) {
      EXPECT_FALSE(offer.wait(Milestone::ready, milliseconds(30)));
      fake_cuda_run(stream, 0);
    }
    EXPECT_EQ(end_of(right->begin_read(offer.metadata(), {target.descriptor()})), "complete");
    fake_cuda_run(stream, 0);
  };
  read_back({});
  EXPECT_TRUE(target.holds(0));

  source.fill(0);
  fake_cuda_launch_fill(stream, 0, source.address, 7, source.size);
  read_back({after_cuda_stream(0, stream)});
  EXPECT_TRUE(target.holds(7));
}

TEST_F(Gpu, DefaultStreamsAreTheDevices) {
  for (const int device : {0, 2}) {
    for (const std::uintptr_t handle : {0u, 1u, 2u}) {
      void* const stream = reinterpret_cast<void*>(handle);  // NOLINT: as CUDA has them
      GpuMemory memory(100, device), neighbour(100, device + 1);
      EXPECT_EQ(after_cuda_stream(static_cast<std::uint32_t>(device), stream), nullptr);
      fake_cuda_launch_fill(stream, device, memory.address, 7, memory.size);
      const Fence fence = after_cuda_stream(static_cast<std::uint32_t>(device), stream);
      EXPECT_EQ(after_cuda_stream(static_cast<std::uint32_t>(device + 1), stream), nullptr);
      ASSERT_NE(fence, nullptr);
      EXPECT_FALSE(fence());
      fake_cuda_run(stream, device);
      EXPECT_TRUE(fence());
    }
  }
}

TEST_F(Gpu, ADeviceThatNobodyUsesHasNoDefaultStream) {
  EXPECT_EQ(refusal([&] { (void)after_cuda_stream(3, nullptr); }),
            "backend: stream: there is no CUDA context of device 3");
  EXPECT_EQ(fake_cuda_calls("cuDevicePrimaryCtxRetain"), 0);
}

TEST_F(Gpu, AStreamIsOfItsOwnDevice) {
  void* const stream = fake_cuda_stream_create(3);
  GpuMemory memory(100, 3);
  fake_cuda_launch_fill(stream, 3, memory.address, 7, memory.size);
  const Fence fence = after_cuda_stream(0, stream);
  ASSERT_NE(fence, nullptr);
  EXPECT_FALSE(fence());
  fake_cuda_run(stream, 3);
  EXPECT_TRUE(fence());
}

TEST_F(Gpu, ACaptureIsNeitherWaitedForNorBroken) {
  void* const captured = fake_cuda_stream_create(0);
  void* const stream = fake_cuda_stream_create(0);
  GpuMemory memory(100);
  fake_cuda_launch_fill(stream, 0, memory.address, 7, memory.size);
  fake_cuda_capture(captured, 1);
  EXPECT_THAT(refusal([&] { static_cast<void>(after_cuda_stream(0, captured)); }),
              HasSubstr("invalid_argument: stream: expected one whose work is being done"));
  EXPECT_THAT(refusal([&] { static_cast<void>(after_cuda_stream(0, nullptr)); }),
              HasSubstr("invalid_argument: stream"));

  const auto offer =
      left->create_readable({memory.descriptor()}, seconds(30), {after_cuda_stream(0, stream)});
  EXPECT_FALSE(offer.wait(Milestone::ready, milliseconds(20)));
  fake_cuda_run(stream, 0);
  EXPECT_TRUE(offer.wait(Milestone::ready, seconds(30)));
  EXPECT_EQ(fake_cuda_broken_captures(), 0);
  fake_cuda_capture(captured, 0);
}

TEST_F(Gpu, WhatTheDriverSaysIsSaid) {
  void* const stream = fake_cuda_stream_create(0);
  GpuMemory memory(100);
  fake_cuda_launch_fill(stream, 0, memory.address, 7, memory.size);
  for (const char* call :
       {"cuEventCreate", "cuEventRecord", "cuStreamGetCtx", "cuStreamIsCapturing"}) {
    fake_cuda_fail(call, 1, 1);
    EXPECT_THAT(refusal([&] { static_cast<void>(after_cuda_stream(0, stream)); }),
                HasSubstr(std::string("backend: stream: ") + call +
                          " failed with CUDA_ERROR_INVALID_VALUE (1)"));
  }
  // An error of an earlier kernel, which the next query tells.
  const auto offer =
      left->create_readable({memory.descriptor()}, seconds(30), {after_cuda_stream(0, stream)});
  fake_cuda_fail("cuEventQuery", kIllegalAddress, 1);
  EXPECT_EQ(end_of(offer), "backend");
  EXPECT_THAT(offer.failure()->message, HasSubstr("CUDA_ERROR_ILLEGAL_ADDRESS (700)"));
  fake_cuda_run(stream, 0);
}

TEST_F(Gpu, AnIdleStreamNeedsNoEvent) {
  void* const stream = fake_cuda_stream_create(0);
  fake_cuda_fail("cuEventCreate", 1, 1);
  EXPECT_FALSE(after_cuda_stream(0, stream));
  // A default stream does: an event in it may wait for other streams.
  EXPECT_THAT(refusal([&] { static_cast<void>(after_cuda_stream(0, nullptr)); }),
              HasSubstr("cuEventCreate failed"));
  EXPECT_FALSE(after_cuda_stream(0, nullptr));
}

TEST_F(Gpu, AStreamOfAGreenContextHasTheCallersContext) {
  void* const stream = fake_cuda_stream_create(0);
  GpuMemory memory(100);
  fake_cuda_launch_fill(stream, 0, memory.address, 7, memory.size);
  fake_cuda_fail("cuStreamGetCtx", 801, 1);
  EXPECT_THAT(refusal([&] { static_cast<void>(after_cuda_stream(0, stream)); }),
              HasSubstr("backend: stream: cu"));
  fake_cuda_run(stream, 0);
}

TEST_F(Gpu, TheDriverKnowsTheDevice) {
  const GpuMemory memory(100, 3);
  const GpuMemory pinned(100, 0, kFakePinned);
  EXPECT_EQ(cuda_device_of(memory.descriptor().address), 3u);
  EXPECT_EQ(cuda_device_of(pinned.descriptor().address), std::nullopt);
  EXPECT_EQ(cuda_device_of(1), std::nullopt);
}

// Where memory is.

TEST_F(Gpu, TheDriverKnowsWhereMemoryIs) {
  const GpuMemory memory(1000, 1);
  const GpuMemory pinned(1000, 0, kFakePinned);
  const Buffer buffer(1000);
  const auto offered = [&](Descriptor d, std::uint32_t device) {
    d.device = {DeviceKind::cuda, device};
    return refusal([&] { static_cast<void>(left->create_readable({buffer.descriptor(), d})); });
  };
  EXPECT_EQ(offered(memory.descriptor(), 1), "nothing was refused");
  EXPECT_THAT(offered(memory.descriptor(), 0),
              HasSubstr("invalid_argument: local_descriptors[1]: expected memory of 'cuda:0', got "
                        "memory of cuda:1 at 0x"));
  EXPECT_THAT(offered(pinned.descriptor(), 0), HasSubstr("got host memory at 0x"));
  EXPECT_THAT(offered(buffer.descriptor(), 0),
              HasSubstr("got an address that the CUDA driver does not know at 0x"));
  EXPECT_THAT(offered(memory.part(900, 101), 1),
              HasSubstr("expected at most 100 bytes, which the allocation has from there on, got "
                        "101"));
  EXPECT_EQ(offered(memory.part(900, 100), 1), "nothing was refused");

  // What is mapped page by page, and managed memory, the driver knows less of.
  const GpuMemory mapped(1000, 0, kFakeMapped);
  EXPECT_EQ(offered(mapped.part(0, 2000), 0), "nothing was refused");
  const GpuMemory managed(1000, 2, kFakeManaged);
  EXPECT_EQ(offered(managed.descriptor(), 0), "nothing was refused");
  EXPECT_EQ(offered(memory.descriptor(), 1), "nothing was refused");
}

TEST_F(Gpu, MemoryOfAGpuIsNotTheHosts) {
  const GpuMemory memory(1000, 1);
  const Buffer buffer(1000);
  Descriptor claimed = memory.descriptor();
  claimed.device = {};
  EXPECT_THAT(refusal([&] { check_cuda_memory({buffer.descriptor(), claimed}, "blocks"); }),
              HasSubstr("blocks[1]: expected memory of 'cpu', got memory of cuda:1"));
  const GpuMemory pinned(1000, 0, kFakePinned);
  const GpuMemory managed(1000, 0, kFakeManaged);
  for (const GpuMemory* fine : {&pinned, &managed}) {
    claimed = fine->descriptor();
    claimed.device = {};
    check_cuda_memory({claimed}, "blocks");
  }
}

TEST_F(Gpu, ManyBlocksOfOneAllocationAreAskedAfterOnce) {
  const GpuMemory cache(10'000 * 16);
  std::vector<Descriptor> blocks;
  for (std::size_t i = 0; i < 10'000; ++i) blocks.push_back(cache.part(16 * i, 16));
  const int before = fake_cuda_calls("cuPointerGetAttributes");
  check_cuda_memory(blocks, "blocks");
  EXPECT_EQ(fake_cuda_calls("cuPointerGetAttributes"), before + 1);
  const Buffer host(10'000 * 16);
  for (std::size_t i = 0; i < 10'000; ++i) blocks[i] = host.part(16 * i, 16);
  check_cuda_memory(blocks, "blocks");
  EXPECT_LE(fake_cuda_calls("cuPointerGetAttributes"), before + 3);
}

TEST_F(Gpu, WhatCannotBeRegisteredSaysWhy) {
  const std::map<int, std::string> kinds{
      {kFakePooled, "cudaMallocAsync"}, {kFakeMapped, "expandable"}, {kFakeManaged, "managed"}};
  for (const auto& [kind, word] : kinds) {
    const GpuMemory memory(1000, 0, kind);
    fake_nixl::fail("register_mem", capi::kBackend);
    const auto offer = left->create_readable({memory.descriptor()});
    EXPECT_EQ(end_of(offer), "backend");
    EXPECT_THAT(offer.failure()->message, HasSubstr(word));
    EXPECT_THAT(offer.failure()->message, HasSubstr("allocate with cudaMalloc"));
  }
  for (const int kind : {kFakePlain, kFakeUntold}) {
    const GpuMemory plain(1000, 0, kind);
    fake_nixl::fail("register_mem", capi::kBackend);
    const auto offer = left->create_readable({plain.descriptor()});
    EXPECT_EQ(end_of(offer), "backend");
    EXPECT_THAT(offer.failure()->message, ::testing::Not(HasSubstr("cudaMalloc")));
  }
}

TEST_F(Gpu, NixlHasTheContextOfTheMemory) {
  std::mutex mutex;
  std::map<std::string, std::set<int>> devices;
  fake_nixl::watch([&](const std::string& function) {
    const std::lock_guard lock(mutex);
    devices[function].insert(fake_cuda_current_device());
  });
  const auto take = [&] {
    const std::lock_guard lock(mutex);
    return std::exchange(devices, {});
  };
  const std::set<int> only_its_own{2};
  // Memory that is of no context is its device's.
  for (const int kind : {kFakePlain, kFakePooled}) {
    const GpuMemory source(1000, 2, kind);
    const GpuMemory target(1000, 2, kind);
    const auto offer = left->create_readable({source.descriptor()});
    const auto read = right->begin_read(offer.metadata(), {target.descriptor()});
    EXPECT_EQ(end_of(read), "complete");
    EXPECT_EQ(end_of(offer), "complete");
    expect_idle();
    auto seen = take();
    for (const char* call :
         {"register_mem", "create_xfer_req", "post_xfer_req", "deregister_mem"}) {
      EXPECT_EQ(seen[call], only_its_own) << call;
    }
  }
  // From then on also to look whether memory was moved, whoever looks, and at the end.
  right->progress();
  take();
  const GpuMemory memory(1000, 2);
  const auto offer = left->create_readable({memory.descriptor()});
  EXPECT_EQ(end_of(right->begin_read(offer.metadata(), {memory.descriptor()})), "complete");
  right->progress();
  left.reset();
  right.reset();
  auto seen = take();
  for (const char* call : {"get_notifs", "get_xfer_status", "destroy_agent"}) {
    EXPECT_TRUE(seen.contains(call)) << call;
  }
  for (const auto& [call, its_devices] : seen) EXPECT_EQ(its_devices, only_its_own) << call;
  fake_nixl::watch(nullptr);
}

TEST_F(Gpu, WhatACopyMayStillUseStaysRegistered) {
  const GpuMemory memory(1000, 0);
  const GpuMemory target(1000, 1);
  fake_nixl::hold_transfers(true);
  fake_nixl::fail("get_xfer_status", capi::kBackend, 2);
  const auto offer = left->create_readable({memory.descriptor()});
  const auto metadata = offer.metadata();
  const auto began = std::chrono::steady_clock::now();
  const auto read = right->begin_read(metadata, {target.descriptor()});
  EXPECT_THAT(end_of(read), ::testing::AnyOf("peer_disconnected", "peer_unreachable"));
  const bool released = read.wait(Milestone::released, milliseconds(0));
  // It may be, where this thread had to wait for so long.
  EXPECT_TRUE(!released || std::chrono::steady_clock::now() - began > milliseconds(900));
  EXPECT_TRUE(read.wait(Milestone::released, seconds(30)));
  fake_nixl::hold_transfers(false);
  EXPECT_TRUE(eventually([&] { return right->stats().registered_regions == 0; }));
}

// Lists of host and GPU memory.

class Mixed : public Gpu, public ::testing::WithParamInterface<bool> {
 protected:
  Mixed() { fake_nixl::rotate_keys(GetParam()); }

  /// All pairings in one list: each side's memory is a list of these, of eight bytes and more.
  struct Side {
    GpuMemory gpu{4000, 1};
    GpuMemory other_gpu{1000, 2};
    Buffer host{4000};

    std::vector<Descriptor> list(bool first) const {
      return first ? std::vector{gpu.part(0, 8),       host.part(0, 1000),     gpu.part(8, 992),
                                 host.part(1000, 500), other_gpu.part(0, 700), host.part(1500, 8)}
                   : std::vector{host.part(0, 8),     host.part(8, 1000),  gpu.part(0, 992),
                                 gpu.part(1000, 500), gpu.part(1500, 700), other_gpu.part(100, 8)};
    }
  };

  static void fill(const std::vector<Descriptor>& list, unsigned char value) {
    for (const Descriptor& d : list) {
      std::memset(reinterpret_cast<void*>(d.address), value++, d.size);
    }
  }
  static bool holds(const std::vector<Descriptor>& list, unsigned char value) {
    for (const Descriptor& d : list) {
      const auto* bytes = reinterpret_cast<const unsigned char*>(d.address);
      if (!std::all_of(bytes, bytes + d.size, [&](auto byte) { return byte == value; })) {
        return false;
      }
      ++value;
    }
    return true;
  }

  Side here;
  Side there;
};

TEST_P(Mixed, AllPairingsInOneList) {
  unsigned char value = 1;
  for (int i = 0; i < 5; ++i) {
    for (const bool reads : {true, false}) {
      const auto source = here.list(i % 2 == 0);
      const auto target = there.list(i % 3 == 0);
      fill(source, value);
      const auto offer = left->create_readable(source);
      const auto read = right->begin_read(offer.metadata(), target);
      EXPECT_EQ(end_of(read), "complete");
      EXPECT_EQ(end_of(offer), "complete");
      EXPECT_TRUE(holds(target, value));
      value = static_cast<unsigned char>(value + 10);
      if (reads) continue;
      fill(target, value);
      const auto wanted = left->create_writable(source);
      const auto write = right->begin_write(target, wanted.metadata());
      EXPECT_EQ(end_of(write), "complete");
      EXPECT_EQ(end_of(wanted), "complete");
      EXPECT_TRUE(holds(source, value));
      value = static_cast<unsigned char>(value + 10);
    }
  }
  expect_idle();
  EXPECT_EQ(left->stats().readable.complete, 10u);
  EXPECT_EQ(right->stats().read.bytes, 10u * 3208);
}

TEST_P(Mixed, WithinOneConnector) {
  fill(here.list(true), 3);
  const auto offer = left->create_readable(here.list(true));
  const auto read = left->begin_read(offer.metadata(), there.list(false));
  EXPECT_EQ(end_of(read), "complete");
  EXPECT_EQ(end_of(offer), "complete");
  EXPECT_TRUE(holds(there.list(false), 3));
  expect_idle();
}

TEST_P(Mixed, ManyAtOnce) {
  fill(here.list(true), 3);
  std::vector<Connection> operations;
  for (int i = 0; i < 50; ++i) {
    operations.push_back(left->create_readable(here.list(i % 2 == 0)));
    operations.push_back(right->begin_read(operations.back().metadata(), there.list(i % 3 == 0)));
  }
  for (const Connection& operation : operations) EXPECT_EQ(end_of(operation), "complete");
  expect_idle();
}

TEST_P(Mixed, AnErrorInAPartIsTheOperations) {
  expect_works();
  for (const char* call : {"register_mem", "create_xfer_req", "post_xfer_req", "get_xfer_status"}) {
    for (const int after : {0, 1, 2}) {
      const auto offer = left->create_readable(here.list(true));
      offer.metadata();
      fake_nixl::fail(call, capi::kBackend, 1, after);
      const auto read = right->begin_read(offer.metadata(), there.list(false));
      const std::string end = end_of(read);
      EXPECT_THAT(end, ::testing::AnyOf("backend", "peer_disconnected", "peer_unreachable"))
          << call << " after " << after;
      EXPECT_EQ(end_of(offer), "remote_failed") << call << " after " << after;
      EXPECT_TRUE(read.wait(Milestone::released, seconds(30)));
      expect_works();
      expect_idle();
    }
  }
}

TEST_P(Mixed, ARegistrationThatHalfFailsLeavesNothing) {
  fake_nixl::fail("register_mem", capi::kBackend, 1, 1);
  EXPECT_EQ(end_of(left->create_readable(here.list(true))), "backend");
  expect_idle();
}

TEST_P(Mixed, CancelledWhileItsPartsFly) {
  expect_works();
  fake_nixl::hold_transfers(true);
  const auto offer = left->create_readable(here.list(true));
  auto read = right->begin_read(offer.metadata(), there.list(false));
  EXPECT_TRUE(eventually([&] { return right->stats().in_flight > 0; }));
  read.cancel();
  EXPECT_EQ(end_of(read), "cancelled");
  EXPECT_FALSE(read.wait(Milestone::released, milliseconds(20)));
  fake_nixl::hold_transfers(false);
  EXPECT_TRUE(read.wait(Milestone::released, seconds(30)));
  EXPECT_EQ(end_of(offer), "remote_failed");
  expect_works();
  expect_idle();
}

TEST_P(Mixed, ClosedWhileItsPartsFly) {
  expect_works();
  fake_nixl::hold_transfers(true);
  const auto offer = left->create_readable(here.list(true));
  const auto read = right->begin_read(offer.metadata(), there.list(false));
  EXPECT_TRUE(eventually([&] { return right->stats().in_flight > 0; }));
  right->close();
  EXPECT_EQ(end_of(read), "closed");
  EXPECT_TRUE(read.reached(Milestone::released));
}

TEST_P(Mixed, AfterAFence) {
  const Gate gate;
  fill(here.list(true), 3);
  const auto offer = left->create_readable(here.list(true));
  const auto read =
      right->begin_read(offer.metadata(), there.list(false), seconds(30), {gate.fence()});
  EXPECT_FALSE(offer.wait(Milestone::ended, milliseconds(20)));
  *gate.open = true;
  EXPECT_EQ(end_of(read), "complete");
  EXPECT_TRUE(holds(there.list(false), 3));
}

TEST_P(Mixed, WithCopiers) {
  auto options = testing::fake_options("many");
  options.engines = 3;
  Connector many(options);
  Buffer large(std::size_t{8} << 20, 5);
  Buffer arrived(std::size_t{8} << 20);
  const GpuMemory gpu(std::size_t{8} << 20);
  for (int i = 0; i < 3; ++i) {
    // From the host to a GPU and back: not for the copiers; then what is.
    const auto to_gpu = left->create_readable({large.descriptor()});
    EXPECT_EQ(end_of(many.begin_read(to_gpu.metadata(), {gpu.descriptor()})), "complete");
    const auto from_gpu = left->create_readable({gpu.descriptor()});
    EXPECT_EQ(end_of(many.begin_read(from_gpu.metadata(), {arrived.descriptor()})), "complete");
    EXPECT_TRUE(arrived == large);
    const auto on_host = left->create_readable({large.descriptor(), gpu.part(0, 100)});
    EXPECT_EQ(end_of(many.begin_read(on_host.metadata(), {arrived.descriptor(), gpu.part(0, 100)})),
              "complete");
  }
}

INSTANTIATE_TEST_SUITE_P(Keys, Mixed, ::testing::Bool(), [](const auto& keys) {
  return keys.param ? "DifferByRegion" : "AreTheSame";
});

}  // namespace
}  // namespace nixl_connect
