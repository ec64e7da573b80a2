#pragma once

#include <cstddef>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Random bytes that nobody can guess; where a sandbox keeps the system's from this process, ones
/// that nobody else has. Thread safe.
void fill_random(void* bytes, std::size_t size) noexcept;

NIXL_CONNECT_NAMESPACE_END
