#pragma once

#include <memory>
#include <vector>

#include "engine/agent_lock.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Keeps what is in use from other processes when its engine has gone, for as long as it is;
/// without limit, for a process that has stopped may go on. A thread looks after it while there is
/// any.
///
/// Thread safety: may be called from any thread.
void keep_while_in_use(std::vector<std::shared_ptr<Releasable>> objects) noexcept;

NIXL_CONNECT_NAMESPACE_END
