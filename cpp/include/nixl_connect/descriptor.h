#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "nixl_connect/api.h"
#include "nixl_connect/device.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// One contiguous piece of memory in this process.
///
/// Lifetime: an operation copies its descriptors, and with them `owner`, and lets go only
/// when NIXL has truly stopped using the memory, which can be after the operation was
/// cancelled or its deadline passed. `owner` may then be released on the engine's thread, or on
/// any that uses the connector. Its deleter may use the connector, close it, and drop the last
/// handle of it, but must not wait: `register_memory`, `agent_metadata` and a wait without a
/// timeout throw `Error(invalid_state)` there. Without an owner the caller must keep the memory
/// alive until the operation has passed `Milestone::released`.
struct Descriptor {
  std::uintptr_t address = 0;           ///< First byte; never 0.
  std::size_t size = 0;                 ///< Bytes; never 0.
  Device device{};                      ///< Where the memory is.
  std::shared_ptr<const void> owner{};  ///< Keeps the memory alive; may be null.
};

/// Whether data may arrive there. For host memory the system is asked about the first and the last
/// byte; a device's memory may always be written. No byte changes. Takes about a microsecond.
/// Thread safe.
NIXL_CONNECT_API bool is_writable(const Descriptor& descriptor) noexcept;

NIXL_CONNECT_NAMESPACE_END
