#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
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

/// That of what has the checksum `before` and goes on with the bytes; `before` is 1 at first.
std::uint32_t checksum_of(std::string_view bytes, std::uint32_t before = 1);

/// Appends a block that holds the bytes, or none; of what has `size` bytes, all before them.
void append_stored(std::string& stream, std::string_view bytes, bool last);
void append_stored_head(std::string& stream, std::size_t size, bool last);

/// What is stored in the last block of a zlib stream, if it begins there and is not compressed.
std::optional<std::string_view> stored_at(std::string_view stream, std::size_t at);

/// A zlib stream in parts: all before its last block, what that stores, and its checksum.
struct StoredEnd {
  std::string_view beginning;
  std::string_view stored;
  std::array<char, kChecksum> checksum;

  /// Of a stream whose last block may store a kilobyte at most. What is before that block is not
  /// looked at.
  static std::optional<StoredEnd> of(std::string_view stream);
  std::string stream() const;
};

NIXL_CONNECT_NAMESPACE_END
