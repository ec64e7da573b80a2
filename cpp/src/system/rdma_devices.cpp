#include "system/rdma_devices.h"

#include <filesystem>
#include <system_error>

#include "system/loaded_libraries.h"

NIXL_CONNECT_NAMESPACE_BEGIN

std::vector<std::string> rdma_devices() {
  std::vector<std::string> names;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/class/infiniband", none)) {
    names.push_back(entry.path().filename().string());
  }
  return names;
}

bool registering_pins() {
  return !rdma_devices().empty() || !loaded_libraries("libcuda.so").empty() ||
         !loaded_libraries("libhsa-runtime64.so").empty();
}

NIXL_CONNECT_NAMESPACE_END
