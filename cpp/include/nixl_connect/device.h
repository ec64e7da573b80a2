#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Where memory lives. The numbers are part of the Python API.
enum class DeviceKind : std::uint8_t {
  unspecified = 0,  ///< No descriptor may have it.
  host = 1,         ///< The processor's memory.
  cuda = 2,         ///< An NVIDIA GPU's.
  xpu = 3,          ///< An Intel GPU's.
};

/// A place for memory: its kind and, for accelerators, the device's ordinal.
struct NIXL_CONNECT_API Device {
  DeviceKind kind = DeviceKind::host;  ///< What kind of memory it is.
  std::uint32_t id = 0;                ///< Which accelerator, from 0; 0 for the host.

  /// Reads "cpu", "host", "cuda", "cuda:N", "gpu:N" or "xpu:N", in any case, with spaces
  /// around it. Throws `Error(invalid_argument)` for anything else.
  static Device parse(std::string_view text);

  /// "cpu", "cuda:N" or "xpu:N": the wire form.
  std::string to_string() const;

  /// Whether both name the same place.
  friend bool operator==(const Device&, const Device&) = default;
};

NIXL_CONNECT_NAMESPACE_END
