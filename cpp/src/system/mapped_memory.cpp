#include "system/mapped_memory.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
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

bool may_be_written(std::uintptr_t address) noexcept {
  constexpr std::uintptr_t kWord = sizeof(std::uint32_t);
  std::uint32_t nobody = 0;
  // An atomic "or" with nothing: the kernel does it, and says where it cannot. Whoever waits at the
  // word, if that is one, may be woken for nothing, as waiters of a futex must expect.
  const long result = ::syscall(
      SYS_futex, &nobody, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 0, nullptr,
      reinterpret_cast<void*>(address & ~(kWord - 1)),  // NOLINT: descriptors have numbers
      FUTEX_OP(FUTEX_OP_OR, 0, FUTEX_OP_CMP_LT, 0));
  return result >= 0 || errno != EFAULT;
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
