#pragma once

#include <functional>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Something that must have happened before the first byte of an operation may move, such as the
/// work on a GPU that fills the memory: returns whether it has.
///
/// An operation asks each of its fences at every poll, until it has once said true. No peer hears
/// of the operation, and nothing is posted, before all have; its deadline and its cancellation hold
/// meanwhile. A fence that throws makes the operation fail with `ErrorCode::backend` and the
/// exception's words.
///
/// Called from the engine's thread and from any that uses the connector, by one at a time: it
/// returns at once, and does not call the connector. It is destroyed as soon as it has said true,
/// or the operation has ended.
using Fence = std::function<bool()>;

NIXL_CONNECT_NAMESPACE_END
