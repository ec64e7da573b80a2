#pragma once

#include <string>
#include <vector>

#include "nixl_connect/api.h"
#include "wire/region.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// NIXL says of its failures that they are errors of a backend. What there is to do, as far as this
/// process's settings and the host tell: each sentence begins with "; ", for the end of a message.
/// Takes a millisecond at most. Thread safe.

/// When an agent could not be made. `device_list` is the backend's parameter; may be empty.
std::string start_advice(const std::string& device_list);

/// Why an agent on UCX had better not be made, for it would never be: UCX 1.23 asks for locked
/// memory again and again, without an end, for an RDMA device that it may use (seen with 1 MiB of
/// it; with 4 MiB it starts). Empty, if there is nothing against it.
std::string endless_start(const std::string& device_list);

/// When memory could not be registered.
std::string registration_advice(const std::vector<Region>& regions);

NIXL_CONNECT_NAMESPACE_END
