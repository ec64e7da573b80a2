#pragma once

#include <string>
#include <vector>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// The names of this host's RDMA devices, as the kernel has them; empty where there are none.
std::vector<std::string> rdma_devices();

/// Whether UCX pins the host's memory that is registered with it: by these, or by a GPU's driver
/// that has been loaded.
bool registering_pins();

NIXL_CONNECT_NAMESPACE_END
