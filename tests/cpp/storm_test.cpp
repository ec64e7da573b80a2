// Threads that offer, read and write lists of several kinds of memory, with fences, cancellations,
// deadlines and faults, all at random: every operation ends, and nothing is left of it.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "fake.h"
#include "gpu_memory.h"

namespace nixl_connect {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Buffer;
using testing::eventually;
using testing::GpuMemory;

constexpr std::size_t kHalf = std::size_t{2} << 20;

/// What all threads move about in; each side of an operation has a half of it.
struct Memory {
  Buffer host{2 * kHalf, 1};
  std::array<GpuMemory, 2> gpus{GpuMemory(2 * kHalf, 0, kFakePlain),
                                GpuMemory(2 * kHalf, 1, kFakePooled)};

  Descriptor part(std::size_t place, std::size_t offset, std::size_t size) const {
    return place == 0 ? host.part(offset, size) : gpus[place - 1].part(offset, size);
  }
};

class Storm : public testing::FakeTest, public ::testing::WithParamInterface<unsigned> {
 protected:
  Storm() {
    fake_nixl::rotate_keys(GetParam() % 2 == 0);
    for (auto* connector : {&left, &right}) {
      auto options = testing::fake_options(connector == &left ? "left" : "right");
      options.engines = GetParam() % 3 == 0 ? 3 : 1;
      options.linger = milliseconds(GetParam() % 2);
      *connector = std::make_unique<Connector>(options);
    }
  }
  void TearDown() override {
    FakeTest::TearDown();
    EXPECT_EQ(fences_alive_, 0);
    fake_cuda_reset();
  }

  /// What one thread does.
  void blow(unsigned seed) {
    std::mt19937 random(seed);
    const auto below = [&](unsigned limit) { return random() % limit; };
    std::vector<Connection> open;
    for (int i = 0; i < 100; ++i) {
      std::vector<std::size_t> sizes(1 + below(5));
      const bool large = below(8) == 0;
      for (auto& size : sizes) size = large ? kHalf / 8 : 1 + below(2000);
      const auto list = [&](std::size_t half) {
        std::vector<Descriptor> descriptors;
        // Anywhere, but what is written is written once.
        std::size_t begin = half;
        for (const std::size_t size : sizes) {
          const std::size_t room = kHalf / sizes.size();
          descriptors.push_back(
              memory_.part(below(3), begin + below(static_cast<unsigned>(room - size)), size));
          begin += room;
        }
        return descriptors;
      };
      const auto timeout = [&] { return milliseconds(below(6) == 0 ? below(4) : 2000); };
      const bool reads = below(2) == 0;
      Connector& owner = below(2) == 0 ? *left : *right;
      Connector& mover = below(4) == 0 ? owner : (&owner == left.get() ? *right : *left);
      if (below(10) == 0) fake_nixl::fail(kCalls.at(below(kCalls.size())), -2, 1, int(below(4)));

      auto offer = reads ? owner.create_readable(list(0), timeout(), fences(random))
                         : owner.create_writable(list(0), timeout(), fences(random));
      if (below(15) == 0) offer.cancel();
      std::optional<RdmaMetadata> metadata;
      try {
        metadata = offer.metadata();
      } catch (const Error&) {
        continue;
      }
      auto active = reads ? mover.begin_read(*metadata, list(kHalf), timeout(), fences(random))
                          : mover.begin_write(list(kHalf), *metadata, timeout(), fences(random));
      if (below(12) == 0) active.cancel();
      if (below(12) == 0) offer.cancel();
      // What is not kept is withdrawn, or goes on unwatched.
      if (below(4) != 0) open.push_back(std::move(offer));
      if (below(4) != 0) open.push_back(std::move(active));
    }
    for (const Connection& operation : open) {
      if (!operation.wait(Milestone::ended, seconds(30))) ++stuck_;
    }
  }

  /// None, one or two that open after some looks, one in forty with an exception.
  std::vector<Fence> fences(std::mt19937& random) {
    std::vector<Fence> made;
    for (auto count = random() % 3; count > 0; --count) {
      const auto counted = std::shared_ptr<void>(nullptr, [this](void*) { --fences_alive_; });
      ++fences_alive_;
      made.push_back([counted, left = random() % 20, fails = random() % 40 == 0]() mutable {
        if (left > 0) {
          --left;
          return false;
        }
        if (fails) throw std::runtime_error("the work has failed");
        return true;
      });
    }
    return made;
  }

  static constexpr std::array<const char*, 5> kCalls{
      "register_mem", "create_xfer_req", "post_xfer_req", "get_xfer_status", "load_remote_md"};

  std::atomic<int> stuck_{0};

 private:
  const Memory memory_;
  std::atomic<int> fences_alive_{0};
};

TEST_P(Storm, EverythingEndsAndNothingIsLeft) {
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 3; ++i) threads.emplace_back([&, i] { blow(100 * GetParam() + i); });
  for (auto& thread : threads) thread.join();
  fake_nixl::reset();
  EXPECT_EQ(stuck_, 0);
  expect_idle();
  // A peer that could not be loaded is left alone for a while.
  const auto works = [&] {
    const Buffer source(1000, 9);
    const auto offer = left->create_readable({source.descriptor()});
    return testing::end_of(right->begin_read(offer.metadata(), {Buffer(1000).descriptor()})) ==
           "complete";
  };
  EXPECT_TRUE(testing::eventually(works));
  expect_works();
}

INSTANTIATE_TEST_SUITE_P(Seeds, Storm, ::testing::Range(0u, 4u));

}  // namespace
}  // namespace nixl_connect
