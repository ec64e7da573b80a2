// What the examples have in common: buffers to move, and the line that they end with.
#pragma once

#include <nixl_connect/nixl_connect.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

namespace nc = nixl_connect;

/// UCX takes every network interface that it finds; the examples stay on this machine.
inline void stay_on_this_machine() { ::setenv("UCX_NET_DEVICES", "lo", 0); }

/// Memory that lives as long as anybody uses it: each descriptor co-owns it.
class Buffer {
 public:
  explicit Buffer(std::size_t size) : bytes_(std::make_shared<std::vector<unsigned char>>(size)) {}

  /// With contents of its own for each number.
  Buffer(std::size_t size, std::size_t number) : Buffer(size) { fill(number); }

  void fill(std::size_t number) const {
    for (std::size_t i = 0; i < bytes_->size(); ++i) (*bytes_)[i] = contents(number, i);
  }

  bool holds(std::size_t number) const {
    for (std::size_t i = 0; i < bytes_->size(); ++i) {
      if ((*bytes_)[i] != contents(number, i)) return false;
    }
    return true;
  }

  nc::Descriptor descriptor() const {
    return {reinterpret_cast<std::uintptr_t>(bytes_->data()), bytes_->size(), {}, bytes_};
  }

 private:
  static unsigned char contents(std::size_t number, std::size_t i) {
    return static_cast<unsigned char>(number + i);
  }

  std::shared_ptr<std::vector<unsigned char>> bytes_;
};

constexpr std::size_t kBuffers = 64;
constexpr std::size_t kSize = 4096;

inline std::vector<Buffer> filled_buffers() {
  std::vector<Buffer> buffers;
  for (std::size_t i = 0; i < kBuffers; ++i) buffers.emplace_back(kSize, i);
  return buffers;
}

inline std::vector<Buffer> empty_buffers() {
  std::vector<Buffer> buffers;
  for (std::size_t i = 0; i < kBuffers; ++i) buffers.emplace_back(kSize);
  return buffers;
}

/// Looks at what has arrived, and says so. Returns the program's exit status.
inline int report(const std::vector<Buffer>& buffers) {
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < buffers.size(); ++i) wrong += buffers[i].holds(i) ? 0 : 1;
  if (wrong == 0) {
    std::printf("moved %zu buffers, all right\n", buffers.size());
  } else {
    std::printf("moved %zu buffers, %zu wrong\n", buffers.size(), wrong);
  }
  return wrong == 0 ? 0 : 1;
}
