#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nixl_connect/api.h"
#include "nixl_connect/device.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// What a peer may do with the memory that an operation offers.
enum class OperationKind : std::uint8_t {
  unspecified = 0,  ///< No operation has it.
  read = 1,         ///< The active side reads from the passive side.
  write = 2,        ///< The active side writes to the passive side.
};

/// A region of the passive side's memory, as it travels.
struct RemoteDescriptor {
  std::uintptr_t address = 0;  ///< First byte, in the passive side's process.
  std::size_t size = 0;        ///< Bytes.
  Device device{};             ///< Where it is, as the passive side counts devices.
};

/// What the passive side sends and the active side begins with: Dynamo's `RdmaMetadata`.
struct RdmaMetadata {
  /// What is offered, in the order of the passive side's local descriptors.
  std::vector<RemoteDescriptor> descriptors;
  /// "b64:" and base64 of a zlib stream, or, from older peers, the stream's hexadecimal digits.
  std::string nixl_metadata;
  /// Names the operation; the active side sends it back as a NIXL notification.
  std::string notification_key;
  /// Whether the active side is to read or to write.
  OperationKind operation_kind = OperationKind::unspecified;
};

/// How the binary metadata becomes text.
enum class MetadataEncoding : std::uint8_t {
  base64,  ///< "b64:" before it.
  hex,     ///< Hexadecimal digits, which older peers of Dynamo's send.
};

/// The largest NIXL blob that is accepted, in bytes after decompression.
inline constexpr std::size_t kMaxBlobSize = std::size_t{16} << 20;

/// The most pieces of memory that one operation may have.
inline constexpr std::size_t kMaxDescriptors = std::size_t{1} << 20;

/// Compresses and encodes a NIXL blob. Thread safe.
NIXL_CONNECT_API std::string encode_nixl_metadata(std::string_view blob, MetadataEncoding encoding);

/// The reverse, for either encoding. Throws `Error(rejected_metadata)` that says what is
/// wrong: empty, not base64, not hexadecimal, not a zlib stream, truncated, with bytes after
/// its end, or larger than `kMaxBlobSize` when decompressed. Thread safe.
NIXL_CONNECT_API std::string decode_nixl_metadata(std::string_view text);

/// The JSON of Dynamo's `RdmaMetadata`, in one line. Thread safe.
NIXL_CONNECT_API std::string to_json(const RdmaMetadata& metadata);

/// The reverse. Throws `Error(rejected_metadata)` that says what is wrong and at which byte:
/// not JSON, another type than expected, an unknown field or device, a number beyond 64 bits.
/// Fields that are missing keep their defaults; what an operation needs of them is checked when
/// it begins. Thread safe.
NIXL_CONNECT_API RdmaMetadata metadata_from_json(std::string_view json);

/// Metadata as bytes, for channels that carry them: the NIXL metadata is not made into text, and
/// pieces of one size at a constant stride take a few bytes together. Throws
/// `Error(invalid_argument)` for more than `kMaxDescriptors`. Thread safe.
NIXL_CONNECT_API std::string to_bytes(const RdmaMetadata& metadata);

/// The reverse. Throws `Error(rejected_metadata)` that says what is wrong and at which byte: not
/// these bytes, another version, truncated, more than `kMaxDescriptors`, a region beyond all
/// memory, a key that is not UTF-8. What an operation needs beyond that is checked when it begins.
/// Thread safe.
NIXL_CONNECT_API RdmaMetadata metadata_from_bytes(std::string_view bytes);

/// One NIXL blob of two: `connection` says how to reach an agent, and `buffer` has its regions. For
/// owners that send the two separately. Throws `Error(rejected_metadata)` when one of them does not
/// have NIXL's form, or they are of two agents. Thread safe.
NIXL_CONNECT_API std::string join_nixl_metadata(std::string_view connection,
                                                std::string_view buffer);

/// The agent's name inside a NIXL blob. Throws `Error(rejected_metadata)` unless the whole
/// blob has NIXL's form. Thread safe.
NIXL_CONNECT_API std::string agent_name_of(std::string_view blob);

NIXL_CONNECT_NAMESPACE_END
