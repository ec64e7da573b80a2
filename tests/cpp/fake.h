#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "eventually.h"
#include "fake_nixl.h"
#include "memory.h"
#include "nixl_connect/nixl_connect.h"

namespace nixl_connect::testing {

inline ConnectorOptions fake_options(const std::string& name) {
  ConnectorOptions options;
  options.name = name;
  options.nixl_library = FAKE_NIXL_LIBRARY;
  options.default_timeout = std::chrono::seconds(30);
  options.close_grace = std::chrono::milliseconds(50);
  options.linger = std::chrono::milliseconds(0);
  // All tests run both ways: small operations by the caller, and everything by the engine's thread.
  if (std::getenv("NIXL_CONNECT_TEST_NOTHING_INLINE") != nullptr) options.inline_limit = 0;
  return options;
}

/// How an operation ended: "complete", "cancelled", or its failure's code.
inline std::string end_of(const Connection& operation) {
  if (!operation.wait(Milestone::ended, std::chrono::seconds(60))) return "did not end";
  if (const auto failure = operation.failure()) return to_string(failure->code);
  return operation.status() == OperationStatus::complete ? "complete" : "cancelled";
}

/// Two connectors on the fake, which is clean before and empty after each test.
class FakeTest : public ::testing::Test {
 protected:
  FakeTest() { fake_nixl::reset(); }

  void TearDown() override {
    fake_nixl::reset();
    left.reset();
    right.reset();
    const auto counts = fake_nixl::counts();
    EXPECT_EQ(counts.agents, 0u);
    EXPECT_EQ(counts.requests, 0u);
    EXPECT_EQ(counts.wrong_thread_calls, 0u);
  }

  /// A whole read, checked.
  void expect_works() {
    const Buffer source(1000, 9);
    const Buffer target(1000);
    const auto offer = left->create_readable({source.descriptor()});
    const auto read = right->begin_read(offer.metadata(), {target.descriptor()});
    EXPECT_EQ(end_of(read), "complete") << read.failure().value_or(Failure{}).message;
    EXPECT_EQ(end_of(offer), "complete");
    EXPECT_TRUE(source == target);
  }

  /// That everything is let go: nothing waits, flies or is registered. What the connectors say may
  /// be of a moment ago, when an engine is busy.
  void expect_idle() {
    const auto held = [](const ConnectorStats& stats) {
      return stats.fenced + stats.waiting + stats.in_flight + stats.registered_regions;
    };
    EXPECT_TRUE(eventually([&] { return held(left->stats()) + held(right->stats()) == 0; }));
    EXPECT_TRUE(eventually([] {
      const auto counts = fake_nixl::counts();
      return counts.registered + counts.requests == 0;
    }));
  }

  std::unique_ptr<Connector> left = std::make_unique<Connector>(fake_options("left"));
  std::unique_ptr<Connector> right = std::make_unique<Connector>(fake_options("right"));
};

}  // namespace nixl_connect::testing
