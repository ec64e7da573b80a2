#pragma once

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Made by the main thread, 128 MiB of free memory within its heap. While it lives, that heap
/// serves its threads without moving the program's break.
///
/// For a start that loads UCX: its constructor hooks `brk` and `sbrk`, and tries them out by moving
/// the break up by a page and back to where it has seen it (`ucm_fire_mmap_events_internal`, UCX
/// 1.23). If malloc has moved the break between, its memory is gone: a segmentation fault, or
/// "break adjusted to free malloc space". Seen in one of eight starts beside a busy thread.
///
/// Only glibc's main heap ends at the break, and only the main thread is sure to use it: made by
/// another thread this is nothing. One page in 120 KiB is touched; that takes 4 ms.
///
/// Thread safety: may be destroyed by another thread.
class HeapReserve {
 public:
  HeapReserve();
  ~HeapReserve();
  HeapReserve(const HeapReserve&) = delete;
  HeapReserve& operator=(const HeapReserve&) = delete;

 private:
  /// At the heap's end, so that what is free before it does not go back to the system.
  void* last_ = nullptr;
};

NIXL_CONNECT_NAMESPACE_END
