// Peers that are connected to before anything is moved; on the stand-in.
#include <gmock/gmock.h>

#include "fake.h"

namespace nixl_connect {
namespace {

using std::chrono::seconds;
using testing::end_of;
using testing::eventually;
using ::testing::HasSubstr;

class ConnectTest : public testing::FakeTest {
 protected:
  const testing::Buffer source{1000, 9};
  Connection offer() { return left->create_readable({source.descriptor()}); }
};

TEST_F(ConnectTest, AnOfferServesAndIsNotUsedUp) {
  const auto offered = offer();
  const auto connection = right->connect(offered.metadata());
  EXPECT_EQ(end_of(connection), "complete") << connection.failure().value_or(Failure{}).message;
  EXPECT_TRUE(connection.wait(Milestone::released, seconds(10)));
  EXPECT_EQ(offered.status(), OperationStatus::initialized);
  const auto loaded = fake_nixl::counts().loaded_peers;
  const testing::Buffer target(1000);
  const auto reading = right->begin_read(offered.metadata(), {target.descriptor()});
  EXPECT_EQ(end_of(reading), "complete");
  EXPECT_TRUE(source == target);
  EXPECT_EQ(fake_nixl::counts().loaded_peers, loaded);
  EXPECT_TRUE(eventually([&] { return right->stats().read.complete == 1; }))
      << "a connection is no read";
  expect_idle();
}

TEST_F(ConnectTest, TheMetadataOfAnAgentServes) {
  RdmaMetadata agent;
  agent.nixl_metadata = encode_nixl_metadata(left->agent_metadata(), MetadataEncoding::base64);
  EXPECT_EQ(end_of(right->connect(agent)), "complete");
  EXPECT_TRUE(eventually([&] { return right->stats().peers == 1; }));
  EXPECT_EQ(end_of(left->connect(agent)), "complete") << "itself";
  expect_works();
}

TEST_F(ConnectTest, EachEngineConnects) {
  auto options = testing::fake_options("three");
  options.engines = 3;
  Connector three(options);
  const auto offered = offer();
  EXPECT_EQ(end_of(three.connect(offered.metadata())), "complete");
  EXPECT_TRUE(eventually([&] { return three.stats().peers == 3; }));
}

TEST_F(ConnectTest, APeerThatDoesNotAnswerIsSaid) {
  const auto metadata = offer().metadata();
  fake_nixl::drop_notifications(1000);
  const auto connection = right->connect(metadata, std::chrono::milliseconds(50));
  EXPECT_EQ(end_of(connection), "timed_out");
  EXPECT_THAT(connection.failure()->message, HasSubstr("the peer has not answered"));
  const auto open = right->connect(metadata);
  right->close();
  EXPECT_EQ(end_of(open), "closed");
  fake_nixl::drop_notifications(0);
}

TEST_F(ConnectTest, DamagedMetadataIsRefused) {
  RdmaMetadata agent;
  for (const char* text : {"", "b64:", "xyz", "b64:eJwDAAAAAAE="}) {
    agent.nixl_metadata = text;
    EXPECT_THROW(static_cast<void>(right->connect(agent)), Error) << text;
  }
}

}  // namespace
}  // namespace nixl_connect
