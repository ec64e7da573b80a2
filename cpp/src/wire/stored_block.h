#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

// The blocks of a deflate stream (RFC 1951, 3.2.4) that hold their bytes as they are.

inline constexpr std::size_t kStoredHead = 5;
/// What a zlib stream ends with (RFC 1950).
inline constexpr std::size_t kChecksum = 4;
/// The most that a stored block holds.
inline constexpr std::size_t kMostStored = 0xffff;

/// Appends a block that holds the bytes, or none.
void append_stored(std::string& stream, std::string_view bytes, bool last);

/// What is stored in the last block of a zlib stream, if it begins there and is not compressed.
std::optional<std::string_view> stored_at(std::string_view stream, std::size_t at);

/// Where the last block of a zlib stream may begin, if it stores a kilobyte at most. What is before
/// it is not looked at.
std::optional<std::size_t> last_stored(std::string_view stream);

NIXL_CONNECT_NAMESPACE_END
