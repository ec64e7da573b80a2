#include "nixl_connect/metadata.h"

#include <gtest/gtest.h>

#include <optional>
#include <thread>
#include <vector>

#include "rejection.h"
#include "wire/inflate.h"
#include "wire/metadata_encoder.h"
#include "wire/metadata_text.h"

namespace nixl_connect {
namespace {

std::string text_rejection(const std::string& text) {
  return rejection([&] { decode_nixl_metadata(text); });
}

TEST(Metadata, RoundTripsBlobsOfEverySize) {
  std::string blob;
  for (int size = 0; size < 300; ++size) {
    for (const auto encoding : {MetadataEncoding::base64, MetadataEncoding::hex}) {
      EXPECT_EQ(decode_nixl_metadata(encode_nixl_metadata(blob, encoding)), blob);
    }
    blob += static_cast<char>(size * 31 % 256);
  }
}

TEST(MetadataEncoder, WritesWhatAnyPeerReads) {
  std::string prefix;
  for (int size = 0; size < 400; size += 7) {
    const MetadataEncoder encoder(prefix);
    std::string blob = prefix;
    for (int more = 0; more < 70; ++more) {
      const std::string text = encoder.encode(blob);
      ASSERT_TRUE(text.starts_with("b64:"));
      ASSERT_EQ(decode_nixl_metadata(text), blob) << size << " + " << more;
      blob += static_cast<char>(more * 37 % 256);
    }
    for (int i = 0; i < 7; ++i) prefix += static_cast<char>((size + i) * 31 % 256);
  }
}

TEST(MetadataEncoder, TheTextIsOfTheStream) {
  const MetadataEncoder encoder("begins like this");
  for (const std::size_t more : {0u, 1u, 2u, 1024u, 1025u, 100'000u}) {
    const std::string blob = "begins like this" + std::string(more, 'x');
    const std::string stream = encoder.stream(blob);
    EXPECT_EQ(text_of(stream, MetadataEncoding::base64), encoder.encode(blob));
    EXPECT_EQ(inflate_all(stream), blob);
  }
}

/// What a thread makes of a stream that has seen no other; nothing for none.
std::optional<std::string> inflated_afresh(const std::string& stream) {
  std::optional<std::string> bytes;
  std::thread([&] {
    try {
      bytes = inflate_all(stream);
    } catch (const Error&) {
    }
  }).join();
  return bytes;
}

TEST(Inflate, KnowsPrefixesOfMorePeersThanItRemembers) {
  std::vector<MetadataEncoder> peers;
  for (int i = 0; i < 20; ++i) {
    peers.emplace_back("peer " + std::to_string(i) + std::string(static_cast<std::size_t>(i), 'x'));
  }
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 20; ++i) {
      for (int more = 0; more < 3; ++more) {
        const std::string blob = "peer " + std::to_string(i) +
                                 std::string(static_cast<std::size_t>(i), 'x') +
                                 std::string(static_cast<std::size_t>(30 * more + round), 'y');
        ASSERT_EQ(inflate_all(peers[static_cast<std::size_t>(i)].stream(blob)), blob);
      }
    }
  }
}

TEST(Inflate, WhatIsDamagedIsTakenAsByWhoKnowsNoPrefix) {
  const std::string prefix = "an agent, and how it is reached: 192.0.2.1, 192.0.2.2";
  const MetadataEncoder encoder(prefix);
  const std::string stream = encoder.stream(prefix + "a region and its key");
  inflate_all(stream);
  for (std::size_t i = 0; i < stream.size(); ++i) {
    for (const int change : {1, 0x80, 0xff}) {
      std::string damaged = stream;
      damaged[i] = static_cast<char>(damaged[i] ^ change);
      std::optional<std::string> here;
      try {
        here = inflate_all(damaged);
      } catch (const Error&) {
      }
      ASSERT_EQ(here, inflated_afresh(damaged)) << i << " " << change;
    }
    // And cut short, and gone on.
    EXPECT_THROW(inflate_all(stream.substr(0, i)), Error);
  }
  EXPECT_THROW(inflate_all(stream + "x"), Error);
  EXPECT_EQ(inflate_all(stream), prefix + "a region and its key");
}

TEST(MetadataEncoder, EncodesAnyBlob) {
  const MetadataEncoder encoder("begins like this");
  for (const std::string& blob :
       {std::string(), std::string("begins"), std::string("begins otherwise"),
        "begins like this" + std::string(1024, 'x'), "begins like this" + std::string(1025, 'x'),
        "begins like this" + std::string(1 << 20, 'x')}) {
    EXPECT_EQ(decode_nixl_metadata(encoder.encode(blob)), blob);
  }
  // Many regions are alike, and are compressed.
  EXPECT_LT(encoder.encode("begins like this" + std::string(1 << 20, 'x')).size(), 10'000u);
}

TEST(Metadata, TakesTheLargestBlobAndNoLarger) {
  const std::string largest(kMaxBlobSize, 'x');
  EXPECT_EQ(decode_nixl_metadata(encode_nixl_metadata(largest, MetadataEncoding::base64)).size(),
            kMaxBlobSize);
  EXPECT_THROW(decode_nixl_metadata(encode_nixl_metadata(largest + "x", MetadataEncoding::base64)),
               Error);
}

TEST(Metadata, SaysWhatIsWrong) {
  using ::testing::Test;
  EXPECT_NE(text_rejection("").find("empty"), std::string::npos);
  EXPECT_NE(text_rejection("b64:").find("truncated"), std::string::npos);
  EXPECT_NE(text_rejection("b64:abc").find("multiple of 4"), std::string::npos);
  EXPECT_NE(text_rejection("b64:a=bc").find("not base64"), std::string::npos);
  EXPECT_NE(text_rejection("b64:====").find("not base64"), std::string::npos);
  EXPECT_NE(text_rejection("b64:QUJD").find("not a zlib stream"), std::string::npos);
  EXPECT_NE(text_rejection("b64:QUI=").find("zlib"), std::string::npos);
  EXPECT_NE(text_rejection("b64:QUJ=").find("stray bits"), std::string::npos);
  EXPECT_NE(text_rejection("xyz").find("odd length"), std::string::npos);
  EXPECT_NE(text_rejection("xy").find("hexadecimal"), std::string::npos);
  const std::string good = encode_nixl_metadata("some blob", MetadataEncoding::hex);
  EXPECT_NE(text_rejection(good + "00").find("after the end"), std::string::npos);
  for (std::size_t size = 2; size < good.size(); size += 2) {
    EXPECT_NE(text_rejection(good.substr(0, size)), "accepted") << size;
  }
}

}  // namespace
}  // namespace nixl_connect
