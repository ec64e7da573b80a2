#include "system/random.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "system/process.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// Fills what it can, from the first byte on, and returns how much that is.
std::size_t fill_from_system(char* bytes, std::size_t size) noexcept {
  std::size_t filled = 0;
  while (filled < size) {
    const ssize_t n = ::getrandom(bytes + filled, size - filled, 0);
    if (n > 0) filled += static_cast<std::size_t>(n);
    // A sandbox may refuse it.
    if (n < 0 && errno != EINTR) break;
  }
  if (filled == size) return filled;
  const int file = ::open("/dev/urandom", O_RDONLY | O_CLOEXEC);
  if (file < 0) return filled;
  while (filled < size) {
    const ssize_t n = ::read(file, bytes + filled, size - filled);
    if (n > 0) filled += static_cast<std::size_t>(n);
    if (n == 0 || (n < 0 && errno != EINTR)) break;
  }
  ::close(file);
  return filled;
}

/// SplitMix64, of numbers that no other call of any process has: not secret, but once in the world.
std::uint64_t next_unique() noexcept {
  static std::atomic<std::uint64_t> calls{0};
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  std::uint64_t mixed = static_cast<std::uint64_t>(now);
  for (const std::uint64_t more :
       {static_cast<std::uint64_t>(this_process()), static_cast<std::uint64_t>(process_space()),
        reinterpret_cast<std::uint64_t>(&calls), ++calls}) {
    mixed = (mixed ^ more) + 0x9e3779b97f4a7c15;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
    mixed ^= mixed >> 31;
  }
  return mixed;
}

}  // namespace

void fill_random(void* bytes, std::size_t size) noexcept {
  auto* const at = static_cast<char*>(bytes);
  std::size_t filled = fill_from_system(at, size);
  while (filled < size) {
    const std::uint64_t more = next_unique();
    const std::size_t n = size - filled < sizeof more ? size - filled : sizeof more;
    std::memcpy(at + filled, &more, n);
    filled += n;
  }
}

NIXL_CONNECT_NAMESPACE_END
