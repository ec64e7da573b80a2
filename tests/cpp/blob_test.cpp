#include "wire/blob.h"

#include <gtest/gtest.h>

#include "nixl_connect/metadata.h"
#include "rejection.h"

namespace nixl_connect {
namespace {

template <typename Integer>
std::string raw(Integer value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

std::string field(const std::string& tag, const std::string& value) {
  return tag + raw(std::uint64_t{value.size()}) + value + "|";
}

struct Parts {
  std::string agent = "peer";
  std::uint64_t connections = 1;
  std::string address = "address";
  std::int32_t type = 0;
  std::uint64_t elements = 1;
  std::uint64_t where = 0x1000;
  std::uint64_t size = 64;
  std::string key = "key";
  std::string tail{};

  std::string bytes() const {
    std::string blob = "nixlSerDes|" + field("Agent", agent) + field("Conns", raw(connections));
    for (std::uint64_t i = 0; i < std::min<std::uint64_t>(connections, 3); ++i) {
      blob += field("t", "UCX") + field("c", address);
    }
    blob += field("", "MemSection") + field("nixlSecElms", raw(std::uint64_t{1}));
    blob += field("bknd", "UCX") + field("nixlDList", "nixlSDList") + field("t", raw(type)) +
            field("n", raw(elements));
    for (std::uint64_t i = 0; i < std::min<std::uint64_t>(elements, 3); ++i) {
      blob += field("", raw(where) + raw(size) + raw(std::uint64_t{0}) + key);
    }
    return blob + tail;
  }
};

std::string blob_rejection(const std::string& bytes) {
  return rejection([&] { Blob::parse(bytes); });
}

void expect_rejection(const Parts& parts, const std::string& words) {
  const std::string message = blob_rejection(parts.bytes());
  EXPECT_NE(message.find(words), std::string::npos) << message;
}

TEST(Blob, ReadsWhatNixlWrites) {
  const auto blob = Blob::parse(Parts{}.bytes());
  EXPECT_EQ(blob->agent(), "peer");
  ASSERT_EQ(blob->connections().size(), 1u);
  EXPECT_EQ(blob->connections()[0].backend, "UCX");
  EXPECT_EQ(blob->connections()[0].address, "address");
  ASSERT_EQ(blob->sections().size(), 1u);
  ASSERT_EQ(blob->sections()[0].elements.size(), 1u);
  const Blob::Element& element = blob->sections()[0].elements[0];
  EXPECT_EQ(element.region, (Region{kDram, 0, 0x1000, 64}));
  EXPECT_EQ(element.remote_key, "key");
}

TEST(Blob, RefusesEveryTruncation) {
  const std::string bytes = Parts{}.bytes();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_NE(blob_rejection(bytes.substr(0, size)), "accepted") << size;
  }
}

TEST(Blob, RefusesWhatCannotBe) {
  expect_rejection({.agent = ""}, "unusable name");
  expect_rejection({.agent = std::string("a\0b", 3)}, "unusable name");
  expect_rejection({.agent = std::string(5000, 'a')}, "unusable name");
  expect_rejection({.connections = 1ull << 60}, "impossible count in 'Conns'");
  expect_rejection({.connections = 2000}, "impossible count in 'Conns'");
  expect_rejection({.address = ""}, "empty address");
  expect_rejection({.type = 5}, "unknown memory type");
  expect_rejection({.type = -1}, "unknown memory type");
  expect_rejection({.elements = 0}, "empty section");
  expect_rejection({.elements = ~0ull}, "impossible count in 'n'");
  expect_rejection({.where = 0}, "impossible region");
  expect_rejection({.size = 0}, "impossible region");
  expect_rejection({.where = ~0ull - 10, .size = 64}, "impossible region");
  expect_rejection({.tail = "x"}, "after the end");
}

TEST(Blob, IsMadeAsNixlMakesIt) {
  const Parts parts;
  const Region region{kDram, 0, parts.where, parts.size};
  EXPECT_EQ(Blob::make("peer", "UCX", "address", {{region, "key"}}), parts.bytes());
}

TEST(Blob, NamesAreText) {
  expect_rejection({.agent = "not \xff UTF-8"}, "not UTF-8");
  expect_rejection({.agent = "over\xc0\xaflong"}, "not UTF-8");
  expect_rejection({.agent = "\xed\xa0\x80"}, "not UTF-8");
  EXPECT_EQ(Blob::parse(Parts{.agent = "Grüße 漢字 🙂"}.bytes())->agent(), "Grüße 漢字 🙂");
}

TEST(Blob, JoinsConnectionsAndRegions) {
  Parts with_regions{.connections = 0};
  std::string connections = "nixlSerDes|" + field("Agent", "peer") +
                            field("Conns", raw(std::uint64_t{1})) + field("t", "UCX") +
                            field("c", "address") + field("", "MemSection") +
                            field("nixlSecElms", raw(std::uint64_t{0}));
  EXPECT_EQ(Blob::join(*Blob::parse(connections), {with_regions.bytes()}), Parts{}.bytes());
  EXPECT_EQ(join_nixl_metadata(connections, with_regions.bytes()), Parts{}.bytes());
  with_regions.agent = "another";
  EXPECT_THROW(Blob::join(*Blob::parse(connections), {with_regions.bytes()}), Error);
  EXPECT_THROW(Blob::join(*Blob::parse(connections), {""}), Error);
}

TEST(Blob, RegionsOfOneKeyAreWrittenAsNixlWritesThem) {
  const std::vector<Region> regions{{kDram, 0, 4096, 10}, {kDram, 0, 8192, 20}};
  const auto connections = Blob::parse(Blob::make("agent", "UCX", "address", {}));
  std::vector<Blob::Element> elements;
  for (const Region& region : regions) elements.push_back({region, "a key"});
  EXPECT_EQ(Blob::join(*connections, "UCX", regions, "a key"),
            Blob::make("agent", "UCX", "address", elements));
}

}  // namespace
}  // namespace nixl_connect
