#include "nixl_connect/device.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include "nixl_connect/error.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

std::string normalized(std::string_view text) {
  auto is_space = [](unsigned char c) { return std::isspace(c) != 0; };
  while (!text.empty() && is_space(static_cast<unsigned char>(text.front()))) text.remove_prefix(1);
  while (!text.empty() && is_space(static_cast<unsigned char>(text.back()))) text.remove_suffix(1);
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return lower;
}

}  // namespace

Device Device::parse(std::string_view text) {
  const std::string lower = normalized(text);
  const std::size_t colon = lower.find(':');
  const std::string_view name = std::string_view(lower).substr(0, colon);

  Device device;
  if (name == "cpu" || name == "host") {
    device.kind = DeviceKind::host;
  } else if (name == "cuda" || name == "gpu") {
    device.kind = DeviceKind::cuda;
  } else if (name == "xpu") {
    device.kind = DeviceKind::xpu;
  } else {
    throw Error(
        ErrorCode::invalid_argument,
        "device: expected 'cpu', 'cuda:<id>' or 'xpu:<id>', got '" + std::string(text) + "'");
  }
  if (colon != std::string::npos) {
    const char* first = lower.data() + colon + 1;
    const char* last = lower.data() + lower.size();
    std::uint32_t id = 0;
    const auto [end, error] = std::from_chars(first, last, id);
    if (error != std::errc{} || end != last) {
      throw Error(ErrorCode::invalid_argument,
                  "device: expected a device number after ':', got '" + std::string(text) + "'");
    }
    if (device.kind != DeviceKind::host) device.id = id;
  }
  return device;
}

std::string Device::to_string() const {
  switch (kind) {
    case DeviceKind::host: return "cpu";
    case DeviceKind::cuda: return "cuda:" + std::to_string(id);
    case DeviceKind::xpu: return "xpu:" + std::to_string(id);
    case DeviceKind::unspecified: break;
  }
  return "<invalid>";
}

NIXL_CONNECT_NAMESPACE_END
