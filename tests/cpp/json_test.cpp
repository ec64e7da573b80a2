#include <gtest/gtest.h>

#include "nixl_connect/metadata.h"
#include "rejection.h"

namespace nixl_connect {
namespace {

std::string json_rejection(const std::string& json) {
  return rejection([&] { metadata_from_json(json); });
}

void expect_rejected(const std::string& json, const std::string& why) {
  EXPECT_NE(json_rejection(json).find(why), std::string::npos)
      << json << ": " << json_rejection(json);
}

RdmaMetadata json_sample() {
  RdmaMetadata metadata;
  metadata.descriptors = {{139638283589240, 4096, Device::parse("cpu")},
                          {1, SIZE_MAX, Device::parse("cuda:3")}};
  metadata.nixl_metadata = "b64:eAE=";
  metadata.notification_key = "0123456789abcdef";
  metadata.operation_kind = OperationKind::write;
  return metadata;
}

void expect_same(const RdmaMetadata& a, const RdmaMetadata& b) {
  ASSERT_EQ(a.descriptors.size(), b.descriptors.size());
  for (std::size_t i = 0; i < a.descriptors.size(); ++i) {
    EXPECT_EQ(a.descriptors[i].address, b.descriptors[i].address);
    EXPECT_EQ(a.descriptors[i].size, b.descriptors[i].size);
    EXPECT_EQ(a.descriptors[i].device, b.descriptors[i].device);
  }
  EXPECT_EQ(a.nixl_metadata, b.nixl_metadata);
  EXPECT_EQ(a.notification_key, b.notification_key);
  EXPECT_EQ(a.operation_kind, b.operation_kind);
}

TEST(Json, WritesWhatPythonWrites) {
  EXPECT_EQ(to_json(json_sample()),
            R"({"descriptors":[{"device":"cpu","ptr":139638283589240,"size":4096},)"
            R"({"device":"cuda:3","ptr":1,"size":18446744073709551615}],)"
            R"("nixl_metadata":"b64:eAE=","notification_key":"0123456789abcdef",)"
            R"("operation_kind":2})");
}

TEST(Json, RoundTrips) {
  RdmaMetadata metadata = json_sample();
  expect_same(metadata_from_json(to_json(metadata)), metadata);
  metadata.notification_key = std::string("quote \" slash \\ zero \0 bell \a Grüße 🙂", 44);
  expect_same(metadata_from_json(to_json(metadata)), metadata);
  metadata.descriptors.clear();
  expect_same(metadata_from_json(to_json(metadata)), metadata);
}

TEST(Json, ReadsAnyLayout) {
  const RdmaMetadata metadata = metadata_from_json(
      " {\n\t\"operation_kind\" : 1 , \"notification_key\":\"\\u0041\\/\\uD83D\\uDE42\\n\",\r\n"
      "\"descriptors\": [ { \"size\" : 2, \"ptr\":1} , {} ] } ");
  EXPECT_EQ(metadata.notification_key, "A/🙂\n");
  EXPECT_EQ(metadata.operation_kind, OperationKind::read);
  ASSERT_EQ(metadata.descriptors.size(), 2u);
  EXPECT_EQ(metadata.descriptors[0].size, 2u);
  EXPECT_EQ(metadata.descriptors[0].device.kind, DeviceKind::host);
  EXPECT_EQ(metadata.nixl_metadata, "");
}

TEST(Json, SaysWhatIsWrong) {
  expect_rejected("", "expected '{'");
  expect_rejected("[]", "expected '{'");
  expect_rejected("{} x", "after the end");
  expect_rejected("{\"size\":1}", "unknown field 'size'");
  expect_rejected("{\"descriptors\":[{\"stream\":1}]}", "unknown field 'descriptors[].stream'");
  expect_rejected("{\"descriptors\":[{\"device\":\"tpu\"}]}", "got 'tpu'");
  expect_rejected("{\"descriptors\":[{\"ptr\":-1}]}", "expected a number");
  expect_rejected("{\"descriptors\":[{\"ptr\":18446744073709551616}]}", "expected a number");
  expect_rejected("{\"descriptors\":[{\"ptr\":1.5}]}", "whole number");
  expect_rejected("{\"descriptors\":[{\"ptr\":1e3}]}", "whole number");
  expect_rejected("{\"descriptors\":[{\"ptr\":01}]}", "leading zeros");
  expect_rejected("{\"descriptors\":[{\"ptr\":\"1\"}]}", "expected a number");
  expect_rejected("{\"descriptors\":{}}", "expected '['");
  expect_rejected("{\"descriptors\":[{},]}", "expected '{'");
  expect_rejected("{\"nixl_metadata\":1}", "expected '\"'");
  expect_rejected("{\"nixl_metadata\":\"a\nb\"}", "control character");
  expect_rejected("{\"nixl_metadata\":\"\\x\"}", "unknown escape");
  expect_rejected("{\"nixl_metadata\":\"\\u12g4\"}", "hexadecimal");
  expect_rejected("{\"nixl_metadata\":\"\\ud800\"}", "half a character");
  expect_rejected("{\"nixl_metadata\":\"\\ud800\\u0041\"}", "half a character");
  expect_rejected("{\"nixl_metadata\":\"\\udc00\"}", "half a character");
  expect_rejected("{\"operation_kind\":3}", "operation_kind");
  expect_rejected("{\"operation_kind\":0}", "operation_kind");
  const std::string good = to_json(json_sample());
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_NE(json_rejection(good.substr(0, size)), "accepted") << size;
  }
}

}  // namespace
}  // namespace nixl_connect
