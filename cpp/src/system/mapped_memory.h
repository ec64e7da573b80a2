#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Whether all of this memory of this process is mapped. Thread safe.
bool is_mapped(std::uintptr_t address, std::size_t size) noexcept;

/// Whether the byte there, of this process, is mapped and may be written. It does not change.
/// Thread safe.
bool may_be_written(std::uintptr_t address) noexcept;

/// Whether all of this memory of another process can be read. True where it may not be asked: for
/// lack of rights nothing is known. Takes about a microsecond for each 64 pages. Thread safe.
bool is_mapped_in(pid_t process, std::uintptr_t address, std::size_t size) noexcept;

NIXL_CONNECT_NAMESPACE_END
