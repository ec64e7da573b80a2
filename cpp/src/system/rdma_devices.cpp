#include "system/rdma_devices.h"

#include <filesystem>
#include <system_error>

NIXL_CONNECT_NAMESPACE_BEGIN

std::vector<std::string> rdma_devices() {
  std::vector<std::string> names;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/class/infiniband", none)) {
    names.push_back(entry.path().filename().string());
  }
  return names;
}

NIXL_CONNECT_NAMESPACE_END
