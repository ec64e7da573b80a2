// Whatever a peer sends, the check of its metadata refuses it with an Error or reads it whole.
// A libFuzzer target (`make fuzz`), and with GoogleTest a replay of the corpus (`make test`).
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "agent/peer_table.h"
#include "nixl_connect/error.h"
#include "nixl_connect/metadata.h"
#include "wire/blob.h"

using namespace nixl_connect;

namespace {

/// What holds for every blob that is accepted.
void check_accepted(const std::shared_ptr<const Blob>& blob) {
  if (blob->agent().empty()) std::abort();
  for (const Blob::Section& section : blob->sections()) {
    std::vector<Region> regions;
    for (const Blob::Element& element : section.elements) {
      if (element.region.size == 0 || element.region.end() < element.region.address) std::abort();
      regions.push_back(element.region);
    }
    try {
      const RemoteOffer offer = RemoteOffer::resolve(blob, section.backend, regions);
      // What NIXL is given is made anew, and reads back as what it was made from.
      std::vector<Blob::Element> elements;
      for (std::size_t i = 0; i < regions.size(); ++i) {
        elements.push_back({offer.regions[i], offer.remote_keys[i]});
      }
      const auto again =
          Blob::parse(Blob::make(blob->agent(), section.backend, offer.address, elements));
      std::size_t count = 0;
      for (const auto& made : again->sections()) count += made.elements.size();
      if (count != elements.size() || again->agent() != blob->agent()) std::abort();
    } catch (const Error& error) {
      if (error.code() != ErrorCode::rejected_metadata) std::abort();
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  try {
    check_accepted(Blob::parse(input));
  } catch (const Error& error) {
    if (error.code() != ErrorCode::rejected_metadata) std::abort();
  }
  try {
    const std::string blob = decode_nixl_metadata(input);
    if (decode_nixl_metadata(encode_nixl_metadata(blob, MetadataEncoding::base64)) != blob) {
      std::abort();
    }
    check_accepted(Blob::parse(blob));
  } catch (const Error& error) {
    if (error.code() != ErrorCode::rejected_metadata) std::abort();
  }
  try {
    const RdmaMetadata metadata = metadata_from_bytes(input);
    if (metadata.descriptors.size() > kMaxDescriptors) std::abort();
    for (const RemoteDescriptor& d : metadata.descriptors) {
      if (d.address + d.size < d.address) std::abort();
    }
    // What is written anew may be shorter, and says the same.
    constexpr std::size_t kManyDescriptors = 4096;
    if (metadata.descriptors.size() > kManyDescriptors) return 0;
    if (to_json(metadata_from_bytes(to_bytes(metadata))) != to_json(metadata)) std::abort();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::rejected_metadata) std::abort();
  }
  return 0;
}
