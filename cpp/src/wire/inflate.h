#pragma once

#include <string>
#include <string_view>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// What a zlib stream holds. Throws `Error(rejected_metadata)` unless it is one, whole, with
/// nothing after it, and holds `kMaxBlobSize` bytes at most.
///
/// What a `MetadataEncoder` makes begins with the same bytes each time: this thread remembers what
/// those of the last few peers become. Thread safe.
std::string inflate_all(std::string_view stream);

NIXL_CONNECT_NAMESPACE_END
