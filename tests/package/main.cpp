// A program of somebody else's: both sides of one operation.
#include <nixl_connect/nixl_connect.h>

#include <cstdint>
#include <cstdio>
#include <vector>

namespace {

nixl_connect::Descriptor descriptor_of(std::vector<unsigned char>& bytes) {
  return {reinterpret_cast<std::uintptr_t>(bytes.data()), bytes.size(), {}, nullptr};
}

}  // namespace

int main() {
  std::vector<unsigned char> source(4096, 7);
  std::vector<unsigned char> target(4096);
  try {
    nixl_connect::Connector owner;
    nixl_connect::Connector reader;
    const auto offer = owner.create_readable({descriptor_of(source)});
    const auto metadata = nixl_connect::metadata_from_json(to_json(offer.metadata()));
    const auto read = reader.begin_read(metadata, {descriptor_of(target)});
    read.wait();
    offer.wait();
    if (source == target && reader.stats().read.complete + reader.stats().in_flight <= 1) return 0;
    std::fputs("wrong bytes\n", stderr);
  } catch (const nixl_connect::Error& error) {
    std::fprintf(stderr, "%s: %s\n", to_string(error.code()), error.what());
  }
  return 1;
}
