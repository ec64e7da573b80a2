#pragma once

#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <new>
#include <string>
#include <vector>

struct Options {
  std::string library = "ours";
  std::size_t size = 4096;
  std::size_t in_flight = 1;
  std::size_t operations = 1000;
  std::size_t warm_up = 100;
  std::size_t engines = 1;
  bool huge = false;
  bool mover = false;
};

inline double seconds(const timeval& t) {
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
}

inline double cpu_seconds() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

/// A buffer for each operation in flight, all on the same kind of pages.
class Buffers {
 public:
  Buffers(const Options& options, bool filled) : size_(options.size) {
    for (std::size_t slot = 0; slot < options.in_flight; ++slot) {
      constexpr std::size_t kHuge = std::size_t{2} << 20;
      const std::size_t length = (options.size + kHuge - 1) / kHuge * kHuge + kHuge;
      void* memory =
          ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (memory == MAP_FAILED) throw std::bad_alloc();
      const auto aligned = (reinterpret_cast<std::uintptr_t>(memory) + kHuge - 1) / kHuge * kHuge;
      ::madvise(reinterpret_cast<void*>(aligned), length - kHuge,
                options.huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
      buffers_.push_back(reinterpret_cast<unsigned char*>(aligned));
      std::memset(buffers_.back(), filled ? pattern(slot) : 0xff, size_);
    }
  }

  unsigned char* operator[](std::size_t slot) const { return buffers_[slot]; }

  bool right() const {
    for (std::size_t slot = 0; slot < buffers_.size(); ++slot) {
      const auto wanted = static_cast<unsigned char>(pattern(slot));
      if (std::any_of(buffers_[slot], buffers_[slot] + size_,
                      [&](unsigned char byte) { return byte != wanted; })) {
        return false;
      }
    }
    return true;
  }

 private:
  static int pattern(std::size_t slot) { return static_cast<int>(slot % 251); }

  std::size_t size_;
  std::vector<unsigned char*> buffers_;
};

/// What a side calls once for each operation of its own that has ended.
using Ended = std::function<void(std::size_t slot)>;
