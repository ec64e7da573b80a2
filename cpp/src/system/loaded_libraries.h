#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Paths of the libraries in this process whose file name begins so. Thread safe.
std::vector<std::string> loaded_libraries(std::string_view beginning);

NIXL_CONNECT_NAMESPACE_END
