#pragma once

#include <cstddef>
#include <vector>

#include "nixl_connect/descriptor.h"
#include "nixl_connect/metadata.h"
#include "wire/region.h"

NIXL_CONNECT_NAMESPACE_BEGIN

// What callers give, checked before anything is made of it. Each throws `Error` that names the
// argument: `invalid_argument`, or `rejected_metadata` for what came from a peer.

/// Something, of memory, and where it says.
void check_local(const std::vector<Descriptor>& local);
/// What arrives twice at one place arrives in no order.
void check_apart(const std::vector<Region>& written);

/// Metadata for this kind of operation, on so many descriptors.
void check_for(OperationKind kind, const RdmaMetadata& remote, std::size_t count);
/// That it names an operation.
void check_key(const RdmaMetadata& remote);
/// The remote's regions, as far as they can be checked by themselves.
std::vector<Region> remote_regions(const RdmaMetadata& remote);
/// That each piece is as large as the remote's.
void check_sizes(const std::vector<Region>& remote, const std::vector<Descriptor>& local);

NIXL_CONNECT_NAMESPACE_END
