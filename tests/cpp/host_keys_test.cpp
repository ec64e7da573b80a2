#include "agent/host_keys.h"

#include <gtest/gtest.h>

#include "wire/blob.h"

namespace nixl_connect {
namespace {

std::string metadata_of(std::uintptr_t address, std::string_view key, MemoryType type = kDram) {
  return Blob::make("agent", "UCX", "address", {{{type, 0, address, 10}, key}});
}

TEST(HostKeys, AreOneWhenEnoughRegionsHadTheSame) {
  HostKeys keys;
  for (std::uintptr_t i = 1; i < 8; ++i) keys.learn(metadata_of(4096 * i, "key"));
  for (int i = 0; i < 100; ++i) keys.learn(metadata_of(4096, "key"));
  EXPECT_FALSE(keys.are_one()) << "it was one region again and again";
  keys.learn(metadata_of(4096 * 8, "key"));
  EXPECT_TRUE(keys.are_one());
  EXPECT_EQ(keys.key(), "key");
  EXPECT_EQ(keys.backend(), "UCX");
}

TEST(HostKeys, AreNotOneOnceThatTheyDiffered) {
  HostKeys keys;
  keys.learn(metadata_of(4096, "key"));
  keys.learn(metadata_of(8192, "another key"));
  for (std::uintptr_t i = 3; i < 100; ++i) keys.learn(metadata_of(4096 * i, "key"));
  EXPECT_FALSE(keys.are_one());
}

TEST(HostKeys, OfDevicesAreNoneOfThem) {
  HostKeys keys;
  for (std::uintptr_t i = 1; i < 100; ++i) keys.learn(metadata_of(4096 * i, "key", kVram));
  EXPECT_FALSE(keys.are_one());
}

}  // namespace
}  // namespace nixl_connect
