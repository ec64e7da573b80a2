#include "agent/memory_registry.h"

#include <gtest/gtest.h>

#include "memory.h"
#include "wire/blob.h"

namespace nixl_connect {
namespace {

class MemoryRegistryTest : public ::testing::Test {
 protected:
  Region part(std::size_t offset, std::size_t size) const {
    const auto d = buffer.part(offset, size);
    return Region::of(d.device, d.address, d.size);
  }

  /// What NIXL itself has registered.
  std::size_t registered() {
    const auto blob = Blob::parse(agent.full_metadata());
    std::size_t count = 0;
    for (const auto& section : blob->sections()) count += section.elements.size();
    return count;
  }

  testing::Buffer buffer{4096};
  Agent agent{NixlApi::load("", {}), "registry", "UCX", {}, false};
  MemoryRegistry registry{agent};
};

TEST_F(MemoryRegistryTest, TheLastOneOutDeregisters) {
  const auto first = registry.acquire({part(0, 4096)});
  const auto second = registry.acquire({part(0, 4096)});
  const auto inside = registry.acquire({part(100, 50)});
  EXPECT_EQ(registered(), 1u);
  registry.release(first);
  registry.release(inside);
  EXPECT_EQ(registered(), 1u);
  registry.release(second);
  EXPECT_EQ(registered(), 0u);
  EXPECT_EQ(registry.size(), 0u);
}

TEST_F(MemoryRegistryTest, OneLeaseMayRepeatItself) {
  const auto lease = registry.acquire({part(0, 100), part(0, 100), part(200, 10), part(0, 100)});
  EXPECT_EQ(registered(), 2u);
  registry.release(lease);
  EXPECT_EQ(registered(), 0u);
}

TEST_F(MemoryRegistryTest, PiecesOfOneRegistrationHoldItOnce) {
  const auto pool = registry.acquire({part(0, 4096)});
  const auto pieces = registry.acquire({part(0, 100), part(100, 100), part(3000, 100)});
  EXPECT_EQ(pieces, std::vector{part(0, 4096)});
  registry.release(pool);
  EXPECT_EQ(registered(), 1u);
  registry.release(pieces);
  EXPECT_EQ(registered(), 0u);
}

TEST_F(MemoryRegistryTest, HoldsEveryRegistrationThatCovers) {
  const auto small = registry.acquire({part(100, 100)});
  const auto large = registry.acquire({part(0, 1000)});
  const auto both = registry.acquire({part(120, 10)});
  EXPECT_EQ(both.size(), 2u);
  registry.release(small);
  registry.release(large);
  EXPECT_EQ(registered(), 2u);
  EXPECT_EQ(registry.covering({part(120, 10), part(130, 10)}), std::vector{part(100, 100)});
  registry.release(both);
  EXPECT_EQ(registered(), 0u);
}

TEST_F(MemoryRegistryTest, ASmallRegionHidesALargeOneFromNixl) {
  const auto small = registry.acquire({part(1000, 1000)});
  const auto large = registry.acquire({part(0, 4096)});
  // NIXL's search would look at the small one only; so this is registered by itself.
  const auto hidden = registry.acquire({part(3000, 100)});
  EXPECT_EQ(registered(), 3u);
  registry.release(small);
  registry.release(large);
  EXPECT_EQ(registered(), 2u);
  registry.release(hidden);
  EXPECT_EQ(registered(), 0u);
}

TEST_F(MemoryRegistryTest, AFailureHoldsNothing) {
  const auto held = registry.acquire({part(0, 100)});
  // A GPU's memory at an address that none has.
  EXPECT_THROW(registry.acquire({{kVram, 0, 0x10, 64}}), AgentError);
  EXPECT_EQ(registry.size(), 1u);
  // What is offered afterwards is untouched by the empty section that NIXL keeps (1.5.1).
  EXPECT_NO_THROW(Blob::parse(agent.partial_metadata({part(0, 100)})));
  registry.release(held);
  EXPECT_EQ(registry.size(), 0u);
}

}  // namespace
}  // namespace nixl_connect
