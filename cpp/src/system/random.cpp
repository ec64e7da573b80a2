#include "system/random.h"

#include <sys/random.h>

NIXL_CONNECT_NAMESPACE_BEGIN

void fill_random(void* bytes, std::size_t size) noexcept {
  auto* const at = static_cast<char*>(bytes);
  std::size_t filled = 0;
  while (filled < size) {
    const ssize_t n = ::getrandom(at + filled, size - filled, 0);
    if (n > 0) filled += static_cast<std::size_t>(n);
  }
}

NIXL_CONNECT_NAMESPACE_END
