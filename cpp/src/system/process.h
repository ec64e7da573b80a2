#pragma once

#include <sys/types.h>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// As `getpid`, which is a system call, at the cost of a load. Thread safe, also after a `fork`.
pid_t this_process() noexcept;

/// From now on nobody unloads this code, as part of a plug-in or by itself. Thread safe.
void stay_loaded() noexcept;

NIXL_CONNECT_NAMESPACE_END
