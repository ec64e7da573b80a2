#pragma once

#include <string>
#include <string_view>

#include "nixl_connect/api.h"
#include "nixl_connect/metadata.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// As `to_bytes`, with a zlib stream in the place of `nixl_metadata`, which is not looked at.
std::string to_bytes(const RdmaMetadata& metadata, std::string_view stream);

/// As `metadata_from_bytes`, but leaves `nixl_metadata` empty where the bytes have a zlib stream,
/// which is `stream` then.
RdmaMetadata metadata_from_bytes(std::string_view bytes, std::string& stream);

NIXL_CONNECT_NAMESPACE_END
