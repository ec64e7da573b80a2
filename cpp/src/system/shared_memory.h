#pragma once

#include <sys/types.h>

#include <cstddef>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Memory that other processes of the same user may map: a memfd whose size cannot change.
///
/// Thread safety: as of a `unique_ptr`.
class SharedMemory {
 public:
  SharedMemory() = default;
  /// Makes `size` zero bytes; pages are taken as they are written. Empty when the system has no
  /// such thing to give.
  static SharedMemory make(const char* name, std::size_t size) noexcept;
  /// What a process has open as `file`, if that is a memfd of this user's and of exactly this name
  /// and size, and cannot shrink under its readers. Else empty: nothing else is opened, let alone
  /// mapped, whatever the numbers say. `forbidden` tells whether the process may not be asked.
  static SharedMemory of_process(pid_t process, int file, const char* name, std::size_t size,
                                 bool& forbidden) noexcept;
  SharedMemory(SharedMemory&& other) noexcept { *this = static_cast<SharedMemory&&>(other); }
  SharedMemory& operator=(SharedMemory&& other) noexcept;
  ~SharedMemory();

  explicit operator bool() const noexcept { return memory_ != nullptr; }
  void* get() const noexcept { return memory_; }
  /// What it is open as, of memory that was made here.
  int file() const noexcept { return file_; }

 private:
  void map(int file, std::size_t size) noexcept;

  void* memory_ = nullptr;
  std::size_t size_ = 0;
  int file_ = -1;
};

NIXL_CONNECT_NAMESPACE_END
