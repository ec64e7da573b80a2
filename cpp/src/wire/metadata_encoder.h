#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "nixl_connect/api.h"
#include "wire/stored_block.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Encodes NIXL blobs that begin alike: all of an agent's begin with its connection information.
/// That part is compressed once, as well as it can be; what differs follows as it is. The result
/// is one zlib stream, as `encode_nixl_metadata` makes, at a tenth of the cost.
///
/// Thread safety: immutable.
class MetadataEncoder {
 public:
  explicit MetadataEncoder(std::string_view prefix);

  /// The text of a blob, in base64; of any blob, if at full cost.
  std::string encode(std::string_view blob) const;
  /// The same before it becomes text.
  std::string stream(std::string_view blob) const;
  /// The parts of that, as long as this and the blob live; nothing for a blob that is not of the
  /// prefix and few bytes after it.
  std::optional<StoredEnd> parts(std::string_view blob) const;

 private:
  std::string prefix_;
  std::uint32_t checksum_;
  std::string compressed_;
  /// The compressed prefix, as text.
  std::string text_;
};

NIXL_CONNECT_NAMESPACE_END
