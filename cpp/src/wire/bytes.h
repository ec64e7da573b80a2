#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "nixl_connect/api.h"
#include "nixl_connect/metadata.h"
#include "wire/metadata_encoder.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// As `to_bytes` of metadata with what the encoder makes of a blob.
std::string to_bytes(OperationKind kind, std::string_view notification_key,
                     const std::vector<RemoteDescriptor>& descriptors,
                     const MetadataEncoder& encoder, std::string_view blob);

/// As `metadata_from_bytes`, but leaves `nixl_metadata` empty where the bytes have a zlib stream,
/// which is `stream` then.
RdmaMetadata metadata_from_bytes(std::string_view bytes, std::string& stream);

NIXL_CONNECT_NAMESPACE_END
