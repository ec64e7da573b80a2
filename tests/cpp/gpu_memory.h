#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "fake_cuda.h"
#include "nixl_connect/nixl_connect.h"

namespace nixl_connect::testing {

/// Before anybody looks for the real one.
[[maybe_unused]] inline const bool stand_in_chosen =
    ::setenv("NIXL_CONNECT_CUDA_LIBRARY", FAKE_CUDA_LIBRARY, 1) == 0;

/// Memory that a GPU has.
struct GpuMemory {
  explicit GpuMemory(std::size_t bytes, int its_device = 0, int kind = kFakePlain)
      : address(fake_cuda_malloc(bytes, its_device, kind)), size(bytes), device(its_device) {}
  GpuMemory(const GpuMemory&) = delete;
  GpuMemory& operator=(const GpuMemory&) = delete;
  ~GpuMemory() { fake_cuda_free(address); }

  Descriptor descriptor() const { return part(0, size); }
  Descriptor part(std::size_t offset, std::size_t bytes) const {
    return {reinterpret_cast<std::uintptr_t>(address) + offset,
            bytes,
            {DeviceKind::cuda, static_cast<std::uint32_t>(device)},
            nullptr};
  }
  bool holds(int value) const {
    const auto* bytes = static_cast<const unsigned char*>(address);
    return std::all_of(bytes, bytes + size, [&](unsigned char byte) { return byte == value; });
  }
  void fill(int value) { std::memset(address, value, size); }

  void* address;
  std::size_t size;
  int device;
};

}  // namespace nixl_connect::testing
