#pragma once

/// \file
/// The whole library but for "nixl_connect/coroutine.h", which needs a compiler's coroutines.

/// RDMA transfers over NVIDIA NIXL: a `Connector` offers memory, or reads and writes what others
/// offer, and each operation is a `Connection`.
namespace nixl_connect {}

#include "nixl_connect/completion.h"
#include "nixl_connect/connection.h"
#include "nixl_connect/connector.h"
#include "nixl_connect/cuda.h"
#include "nixl_connect/descriptor.h"
#include "nixl_connect/device.h"
#include "nixl_connect/error.h"
#include "nixl_connect/fence.h"
#include "nixl_connect/metadata.h"
