#include "system/mapped_memory.h"

#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

std::uintptr_t page_size() noexcept {
  static const auto size = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  return size;
}

}  // namespace

bool is_mapped(std::uintptr_t address, std::size_t size) noexcept {
  const std::uintptr_t start = address & ~(page_size() - 1);
  void* const memory = reinterpret_cast<void*>(start);  // NOLINT: what peers name is numbers
  // Writes nothing, and since Linux 2.6.19 does nothing but look.
  return ::msync(memory, address + size - start, MS_ASYNC) == 0 || errno != ENOMEM;
}

bool is_mapped_in(pid_t process, std::uintptr_t address, std::size_t size) noexcept {
  constexpr std::size_t kAtOnce = 256;
  std::array<char, kAtOnce> bytes;
  std::array<::iovec, kAtOnce> pages;
  const std::uintptr_t end = address + size;
  while (address < end) {
    std::size_t count = 0;
    for (; count < kAtOnce && address < end; ++count) {
      pages[count] = {reinterpret_cast<void*>(address), 1};  // NOLINT: of another process
      address = (address & ~(page_size() - 1)) + page_size();
    }
    const ::iovec here{bytes.data(), count};
    const ssize_t read = ::process_vm_readv(process, &here, 1, pages.data(), count, 0);
    if (read < 0) return errno != EFAULT;
    if (read < static_cast<ssize_t>(count)) return false;
  }
  return true;
}

NIXL_CONNECT_NAMESPACE_END
