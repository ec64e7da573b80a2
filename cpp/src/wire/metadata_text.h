#pragma once

#include <string>
#include <string_view>

#include "nixl_connect/api.h"
#include "nixl_connect/metadata.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// The zlib stream in a `RdmaMetadata::nixl_metadata`. Throws `Error(rejected_metadata)` for a text
/// that is no encoding of bytes, or longer than any valid one.
std::string stream_of(std::string_view text);
/// The text of a zlib stream.
std::string text_of(std::string_view stream, MetadataEncoding encoding);

NIXL_CONNECT_NAMESPACE_END
