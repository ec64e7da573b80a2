#include "system/loaded_libraries.h"

#include <link.h>

#include <filesystem>

NIXL_CONNECT_NAMESPACE_BEGIN

std::vector<std::string> loaded_libraries(std::string_view beginning) {
  struct Search {
    std::string_view beginning;
    std::vector<std::string> found;
  } search{beginning, {}};
  ::dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        auto& s = *static_cast<Search*>(data);
        const std::filesystem::path path(info->dlpi_name);
        if (path.filename().string().rfind(s.beginning, 0) == 0) s.found.push_back(path.string());
        return 0;
      },
      &search);
  return search.found;
}

NIXL_CONNECT_NAMESPACE_END
