#pragma once

#include <string_view>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// From now on what the loaded libraries open whose file names begin so is closed in the programs
/// that this process starts: their calls of `socket`, `accept`, `pipe`, `epoll_create`, `eventfd`,
/// `timerfd_create` and `open` are redirected, in their tables of functions of other libraries. UCX
/// asks for none of that, and so a child that `system` starts would keep a killed worker's
/// connections open, and its peers waiting. What cannot be redirected stays as it is. Thread safe.
void close_on_exec_of(std::string_view beginning) noexcept;

NIXL_CONNECT_NAMESPACE_END
