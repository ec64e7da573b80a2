#include "nixl_connect/device.h"

#include <gtest/gtest.h>

#include "nixl_connect/error.h"

namespace nixl_connect {
namespace {

TEST(Device, ReadsAndWritesNames) {
  EXPECT_EQ(Device::parse("cpu").to_string(), "cpu");
  EXPECT_EQ(Device::parse(" Host ").to_string(), "cpu");
  EXPECT_EQ(Device::parse("cpu:3"), Device::parse("cpu"));
  EXPECT_EQ(Device::parse("cuda").to_string(), "cuda:0");
  EXPECT_EQ(Device::parse("GPU:7").to_string(), "cuda:7");
  EXPECT_EQ(Device::parse("xpu:1").to_string(), "xpu:1");
}

TEST(Device, RefusesEverythingElse) {
  for (const char* text :
       {"", ":", "tpu", "cuda:", "cuda:x", "cuda:1x", "cuda:-1", "cuda:99999999999"}) {
    EXPECT_THROW(Device::parse(text), Error) << text;
  }
}

}  // namespace
}  // namespace nixl_connect
