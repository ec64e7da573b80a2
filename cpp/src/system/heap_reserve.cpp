#include "system/heap_reserve.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <vector>

#include "system/process.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// Below the 128 KiB from which malloc asks the system for a mapping of its own.
constexpr std::size_t kPiece = 120 << 10;
constexpr std::size_t kPieces = (128 << 20) / kPiece;

#if !defined(__has_feature)
#define __has_feature(feature) 0  // NOLINT: clang's own.
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || \
    __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool kUsesBreak = false;
#else
constexpr bool kUsesBreak = true;
#endif

}  // namespace

HeapReserve::HeapReserve() {
  // glibc before 2.30, as of manylinux_2_28, has no gettid.
  if (!kUsesBreak || ::syscall(SYS_gettid) != this_process()) return;
  std::vector<void*> pieces(kPieces);
  for (void*& piece : pieces) piece = std::malloc(kPiece);
  last_ = std::malloc(kPiece);
  for (void* piece : pieces) std::free(piece);
}

HeapReserve::~HeapReserve() { std::free(last_); }

NIXL_CONNECT_NAMESPACE_END
