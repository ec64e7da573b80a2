#pragma once

#include <functional>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Something that must have happened before the first byte of an operation may move, such as the
/// work on a GPU that fills the memory: returns whether it has.
///
/// An operation calls each of its fences at every poll, until the fence has returned true once. No
/// peer hears of the operation, and nothing is posted, before all have returned true; meanwhile the
/// operation can be cancelled and can pass its deadline. A fence that throws makes the operation
/// fail with `ErrorCode::backend` and the exception's words.
///
/// The engine's thread and any thread that uses the connector may call a fence, one at a time. A
/// fence must return at once, and must not call the connector. It is destroyed as soon as it has
/// returned true, or the operation has ended.
using Fence = std::function<bool()>;

NIXL_CONNECT_NAMESPACE_END
