#include "wire/bytes.h"

#include <gtest/gtest.h>

#include <random>

#include "nixl_connect/metadata.h"
#include "rejection.h"
#include "wire/blob.h"
#include "wire/metadata_encoder.h"
#include "wire/metadata_text.h"

namespace nixl_connect {
namespace {

std::string bytes_rejection(std::string_view bytes) {
  return rejection([&] { metadata_from_bytes(bytes); });
}

RdmaMetadata bytes_sample() {
  RdmaMetadata metadata;
  metadata.nixl_metadata = encode_nixl_metadata("a blob", MetadataEncoding::base64);
  metadata.notification_key = "0123456789abcdef~25.Grüße";
  metadata.operation_kind = OperationKind::write;
  for (std::uintptr_t i = 0; i < 100; ++i) {
    metadata.descriptors.push_back({139638283589240 + 8192 * i, 4096, Device{}});
  }
  metadata.descriptors.push_back({139638283589240, 4096, Device::parse("cuda:3")});
  metadata.descriptors.push_back({1, 17, Device::parse("xpu:300")});
  return metadata;
}

/// The sample's bytes with another part about descriptors.
std::string with_descriptors(std::string_view descriptors) {
  RdmaMetadata metadata = bytes_sample();
  metadata.descriptors.clear();
  std::string bytes = to_bytes(metadata);
  bytes.pop_back();
  return bytes.append(descriptors);
}

std::string address_of_a_worker() {
  std::mt19937 random(7);
  std::string address(180, '\0');
  for (char& c : address) c = static_cast<char>(random());
  return address;
}

/// What an agent's connections are, and what it offers: as the encoder makes it.
RdmaMetadata agents_sample(const std::vector<Blob::Element>& elements) {
  const auto blob = Blob::parse(Blob::make("agent", "UCX", address_of_a_worker(), elements));
  RdmaMetadata metadata = bytes_sample();
  metadata.nixl_metadata = MetadataEncoder(blob->head()).encode(blob->bytes());
  return metadata;
}

RdmaMetadata agents_sample() { return agents_sample({{{kDram, 0, 139638283589240, 4096}, "key"}}); }

bool has_regions(const RdmaMetadata& metadata) {
  // What is before the last block is what an agent's metadata always begins with.
  return to_bytes(metadata).find("nixlSecElms") == std::string::npos;
}

// The JSON has every field, and nothing else does.
void expect_round_trip(const RdmaMetadata& metadata) {
  EXPECT_EQ(to_json(metadata_from_bytes(to_bytes(metadata))), to_json(metadata));
}

TEST(Bytes, AreWhatOtherVersionsRead) {
  RdmaMetadata metadata;
  metadata.nixl_metadata = "b64:eAE=";
  metadata.notification_key = "key";
  metadata.operation_kind = OperationKind::read;
  metadata.descriptors = {{1000, 300, Device{}},
                          {2000, 300, Device{}},
                          {3000, 300, Device{}},
                          {2900, 1, Device::parse("cuda:1")}};
  using namespace std::string_literals;
  EXPECT_EQ(to_bytes(metadata),
            "\x93nc\x01\x01"           // version, kind
            "\x03key\x00\x02\x78\x01"  // key, stream
            "\x04"                     // descriptors
            "\x1e\xd0\x0f\xac\x02\xd0\x0f"
            "\x0b\x02\x01\xc7\x01\x01"s);
}

TEST(Bytes, CarryAStream) {
  const RdmaMetadata metadata = bytes_sample();
  const std::string stream = stream_of(metadata.nixl_metadata);
  std::string found;
  RdmaMetadata read = metadata_from_bytes(to_bytes(metadata), found);
  EXPECT_EQ(found, stream);
  EXPECT_EQ(read.nixl_metadata, "");
  read.nixl_metadata = metadata.nixl_metadata;
  EXPECT_EQ(to_json(read), to_json(metadata));
  // What is no encoding of bytes is there as it is.
  read.nixl_metadata = "no stream";
  const std::string of_text = to_bytes(read);
  found = {};
  EXPECT_EQ(metadata_from_bytes(of_text, found).nixl_metadata, "no stream");
  EXPECT_TRUE(found.empty());
}

TEST(Bytes, AreTheSameOfABlob) {
  const std::vector<Blob::Element> few{{{kDram, 0, 139638283589240, 4096}, "key"}};
  const std::vector<Blob::Element> many(100, few.front());
  for (const auto& elements : {few, many}) {
    const auto blob = Blob::parse(Blob::make("agent", "UCX", address_of_a_worker(), elements));
    const MetadataEncoder encoder(blob->head());
    RdmaMetadata metadata = bytes_sample();
    metadata.nixl_metadata = encoder.encode(blob->bytes());
    EXPECT_EQ(to_bytes(metadata.operation_kind, metadata.notification_key, metadata.descriptors,
                       encoder, blob->bytes()),
              to_bytes(metadata));
  }
}

TEST(Bytes, NameRegionsInsteadOfNixlsFormOfThem) {
  const RdmaMetadata metadata = agents_sample();
  const std::string stream = stream_of(metadata.nixl_metadata);
  const std::string bytes = to_bytes(metadata);
  EXPECT_TRUE(has_regions(metadata));
  RdmaMetadata others = metadata;
  others.nixl_metadata.clear();
  EXPECT_LT(bytes.size(), to_bytes(others).size() + stream.size() - 120);
  std::string found;
  EXPECT_EQ(metadata_from_bytes(bytes, found).nixl_metadata, "");
  EXPECT_EQ(found, stream);
  expect_round_trip(metadata);
}

TEST(Bytes, NameRegionsOnlyWhereNothingIsLost) {
  const Region region{kDram, 0, 139638283589240, 4096};
  Region next = region;
  next.address -= 8192;
  const RdmaMetadata several = agents_sample({{region, "key"}, {next, "key"}, {region, "key"}});
  EXPECT_TRUE(has_regions(several));
  expect_round_trip(several);
  Region elsewhere = region;
  elsewhere.device = 1;
  Region on_gpu = region;
  on_gpu.type = kVram;
  for (const auto& elements :
       std::vector<std::vector<Blob::Element>>{{{region, "key"}, {next, "another"}},
                                               {{elsewhere, "key"}},
                                               {{on_gpu, "key"}},
                                               {{region, "key"}, {on_gpu, "key"}}}) {
    const RdmaMetadata metadata = agents_sample(elements);
    EXPECT_FALSE(has_regions(metadata));
    expect_round_trip(metadata);
  }
}

TEST(Bytes, SayWhatIsWrongWithRegions) {
  using namespace std::string_literals;
  const std::string before = "\x93nc\x01\x01\x01k\x03\x02\x78\x01"s;
  const std::string named = before + "sum.\x03UCX\x03key"s;
  const auto expect_rejected = [](const std::string& bytes, const std::string& why) {
    EXPECT_NE(bytes_rejection(bytes).find(why), std::string::npos) << bytes_rejection(bytes);
  };
  EXPECT_EQ(bytes_rejection(named + "\x01\x0a\x02\x01"s + '\0'), "accepted");
  expect_rejected(before + "sum", "a checksum that goes on beyond the end");
  expect_rejected(before + "sum.\x03UC", "a backend that goes on beyond the end");
  expect_rejected(named + '\0', "NIXL metadata of no region");
  expect_rejected(named + "\x01\x0b\x02\x01\x02\x01"s, "NIXL metadata of a device's memory");
  // More than a stored block can hold: 2^20 in few bytes, and one with a long key.
  expect_rejected(named + "\x80\x80\x40\x82\x80\x80\x04\x02\x01"s, "expected at most");
  std::string long_key = before + "sum.\x03UCX\x80\x80\x04"s + std::string(65536, 'k');
  expect_rejected(long_key + "\x01\x0a\x02\x01"s, "expected at most 0 descriptors");
}

TEST(Bytes, RoundTrip) {
  RdmaMetadata metadata = bytes_sample();
  expect_round_trip(metadata);
  metadata.operation_kind = OperationKind::unspecified;
  metadata.descriptors.clear();
  expect_round_trip(metadata);
  for (const std::string& text :
       {std::string(), std::string("b64:"), std::string("b64:eAE="), std::string("b64:eA=="),
        std::string("b64:eB=="), std::string("b64:?"), std::string("78"), std::string("7a"),
        std::string("7A"), std::string("7"), std::string("Grüße"), std::string("B64:eAE="),
        encode_nixl_metadata("blob", MetadataEncoding::hex),
        encode_nixl_metadata(std::string(100'000, 'x'), MetadataEncoding::base64)}) {
    metadata.nixl_metadata = text;
    expect_round_trip(metadata);
  }
}

TEST(Bytes, RoundTripAtRandom) {
  std::mt19937_64 random(7);
  const auto below = [&](std::uint64_t limit) { return random() % limit; };
  for (int round = 0; round < 2000; ++round) {
    RdmaMetadata metadata = bytes_sample();
    metadata.descriptors.clear();
    RemoteDescriptor d{random() >> below(64), random() >> below(64), Device{}};
    std::uint64_t stride = random() >> below(64);
    const std::size_t count = below(50);
    while (metadata.descriptors.size() < count) {
      if (below(4) == 0) stride = below(2) == 0 ? random() >> below(64) : 0 - (random() >> 40);
      if (below(6) == 0) d.size = random() >> below(64);
      if (below(8) == 0) d.device = {DeviceKind::cuda, static_cast<std::uint32_t>(random())};
      if (below(8) == 0) d.device = {};
      d.address += stride;
      // What wraps nobody can have.
      if (d.address + d.size < d.address) d = {below(1000), below(1000), d.device};
      metadata.descriptors.push_back(d);
    }
    expect_round_trip(metadata);
  }
}

TEST(Bytes, OfManyPiecesAreFew) {
  RdmaMetadata metadata = bytes_sample();
  const std::size_t before = to_bytes(metadata).size();
  for (std::uintptr_t i = 0; i < 300'000; ++i) {
    metadata.descriptors.push_back({139638283589240 + 8192 * i, 4096, Device{}});
  }
  EXPECT_LT(to_bytes(metadata).size() - before, 20u);
  expect_round_trip(metadata);
  // Blocks in any order take their addresses.
  std::shuffle(metadata.descriptors.begin(), metadata.descriptors.end(), std::mt19937_64(7));
  EXPECT_LT(to_bytes(metadata).size() - before, 300'000u * 7);
  expect_round_trip(metadata);
}

TEST(Bytes, TakeAsManyDescriptorsAsAnOperation) {
  RdmaMetadata metadata = bytes_sample();
  metadata.descriptors.resize(kMaxDescriptors);
  EXPECT_EQ(metadata_from_bytes(to_bytes(metadata)).descriptors.size(), kMaxDescriptors);
  metadata.descriptors.emplace_back();
  EXPECT_THROW(to_bytes(metadata), Error);
  using namespace std::string_literals;
  // Few bytes for very many: 2^20 + 1, and in one run of these.
  EXPECT_NE(bytes_rejection(with_descriptors("\x81\x80\x40\x88\x80\x80\x04\x02"s))
                .find("at most 1048576"),
            std::string::npos);
}

TEST(Bytes, SayWhatIsWrong) {
  using namespace std::string_literals;
  const auto expect_rejected = [](const std::string& bytes, const std::string& why) {
    EXPECT_NE(bytes_rejection(bytes).find(why), std::string::npos) << bytes_rejection(bytes);
  };
  expect_rejected("", "no magic number at byte 0 of 0");
  expect_rejected("{}", "JSON, which metadata_from_json takes");
  expect_rejected("\x93nc", "unexpected end at byte 3 of 3");
  expect_rejected("\x93nc\x02", "expected version 1, got 2 at byte 3");
  expect_rejected("\x93nc\x01\x03", "unknown kind of operation");
  expect_rejected("\x93nc\x01\x01\x05key", "a notification key that goes on beyond the end");
  expect_rejected("\x93nc\x01\x01\x01\xff", "a notification key that is not UTF-8");
  expect_rejected("\x93nc\x01\x01\x81"s + '\0', "longer than it need be");
  expect_rejected("\x93nc\x01\x01"s + std::string(9, '\xff') + '\x02', "beyond 64 bits");
  expect_rejected("\x93nc\x01\x01\x01k\x04"s + '\0', "unknown form");
  expect_rejected("\x93nc\x01\x01\x01k\x02\x01\xff", "NIXL metadata that is not UTF-8");
  expect_rejected(with_descriptors("\x01\x06\x02\x01"s + '\0'), "a run of no descriptors");
  expect_rejected(with_descriptors("\x01\x16\x02\x01\x02"s), "more descriptors than announced");
  expect_rejected(with_descriptors("\x01\x0c\x02\x02"s), "a stride of a single descriptor");
  expect_rejected(with_descriptors("\x01\x09\x04\x02"s), "unknown device");
  expect_rejected(with_descriptors("\x01\x09\x02\x80\x80\x80\x80\x10\x02"s), "impossible ordinal");
  expect_rejected(with_descriptors("\x01\x0a\x01\x01"s), "a region beyond all memory");
  expect_rejected(to_bytes(bytes_sample()) + "x", "something after the end");
  EXPECT_EQ(bytes_rejection(with_descriptors("\x01\x0a\x02\x01"s)), "accepted");
}

TEST(Bytes, AreRefusedWhereverTheyEnd) {
  for (const std::string& good : {to_bytes(bytes_sample()), to_bytes(agents_sample())}) {
    for (std::size_t size = 0; size < good.size(); ++size) {
      EXPECT_NE(bytes_rejection(good.substr(0, size)), "accepted") << size;
    }
  }
}

TEST(Bytes, AreReadOrRefusedWithAnyBitFlipped) {
  for (const std::string& good : {to_bytes(bytes_sample()), to_bytes(agents_sample())}) {
    for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
      std::string damaged = good;
      damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ 1 << bit % 8);
      bytes_rejection(damaged);
    }
  }
}

}  // namespace
}  // namespace nixl_connect
