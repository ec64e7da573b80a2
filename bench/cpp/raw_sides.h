#pragma once

#include <cstdio>
#include <unordered_map>
#include <utility>

#include "lines.h"
#include "nixl_connect/nixl_connect.h"
#include "raw_nixl.h"
#include "wire/metadata_encoder.h"
#include "work.h"

// The two sides through NIXL's C interface alone, which polls.

struct RawOwner {
  RawOwner(const Options& options, const Buffers& buffers, const Lines&)
      : nixl("owner"), size(options.size), memory(buffers) {}

  std::string hello() { return encoder.encode(nixl.metadata(nullptr, 0)); }
  std::string offer(std::size_t slot) {
    nixl.register_memory(memory[slot], size);
    nixl_connect::RdmaMetadata metadata;
    metadata.descriptors = {{reinterpret_cast<std::uintptr_t>(memory[slot]), size, {}}};
    metadata.nixl_metadata = encoder.encode(nixl.metadata(memory[slot], size));
    char key[33];
    std::snprintf(key, sizeof key, "%032zx", ++keys);
    metadata.notification_key = key;
    metadata.operation_kind = nixl_connect::OperationKind::read;
    waiting.emplace(key, slot);
    return nixl_connect::to_json(metadata);
  }
  void progress(const Ended& ended) {
    nixl.for_each_notification([&](std::string_view key) {
      const auto it = waiting.find(std::string(key));
      const std::size_t slot = it->second;
      waiting.erase(it);
      nixl.deregister_memory(memory[slot], size);
      ended(slot);
    });
  }
  void wait() {}

  RawNixl nixl;
  // As cheap as it can be: nothing is compressed.
  nixl_connect::MetadataEncoder encoder{""};
  std::size_t size;
  const Buffers& memory;
  std::size_t keys = 0;
  std::unordered_map<std::string, std::size_t> waiting;
};

struct RawMover {
  RawMover(const Options& options, const Buffers& buffers, const Lines&)
      : nixl("mover"), size(options.size), memory(buffers) {}

  void hello(std::string_view text) { nixl.load(nixl_connect::decode_nixl_metadata(text)); }
  void begin(std::size_t slot, std::string_view json) {
    const nixl_connect::RdmaMetadata remote = nixl_connect::metadata_from_json(json);
    nixl.register_memory(memory[slot], size);
    nixl.load(nixl_connect::decode_nixl_metadata(remote.nixl_metadata));
    flights.emplace_back(slot, nixl.read("owner", remote.descriptors[0].address, memory[slot], size,
                                         remote.notification_key));
  }
  void progress(const Ended& ended) {
    for (std::size_t i = 0; i < flights.size();) {
      const auto [slot, request] = flights[i];
      if (!nixl.done(request)) {
        ++i;
        continue;
      }
      nixl.release(request);
      nixl.deregister_memory(memory[slot], size);
      flights[i] = flights.back();
      flights.pop_back();
      ended(slot);
    }
    // The peer needs us to make connections.
    if (flights.empty()) nixl.for_each_notification([](std::string_view) {});
  }
  void wait() {}

  RawNixl nixl;
  std::size_t size;
  const Buffers& memory;
  std::vector<std::pair<std::size_t, RawNixl::Request>> flights;
};
