#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "nixl_connect/nixl_connect.h"

namespace nixl_connect::testing {

/// A buffer whose descriptors keep it alive.
struct Buffer {
  explicit Buffer(std::size_t size, unsigned seed = 0)
      : bytes(std::make_shared<std::vector<unsigned char>>(size)) {
    unsigned state = seed * 2654435761u + 12345u;
    if (seed == 0) return;
    for (auto& byte : *bytes) {
      state = state * 1664525u + 1013904223u;
      byte = static_cast<unsigned char>(state >> 24);
    }
  }

  Descriptor descriptor() const { return part(0, bytes->size()); }
  Descriptor part(std::size_t offset, std::size_t size) const {
    return {reinterpret_cast<std::uintptr_t>(bytes->data()) + offset, size, Device{}, bytes};
  }

  bool operator==(const Buffer& other) const { return *bytes == *other.bytes; }

  std::shared_ptr<std::vector<unsigned char>> bytes;
};

}  // namespace nixl_connect::testing
