#include "agent/advice.h"

#include <ifaddrs.h>
#include <linux/capability.h>
#include <net/if.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string_view>

#include "cuda/cuda_memory.h"
#include "system/mapped_memory.h"
#include "system/process.h"
#include "system/rdma_devices.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// What UCX may lock for its own buffers when it opens an RDMA device: some MiB.
constexpr std::size_t kLockedAtStart = std::size_t{16} << 20;
/// And what it cannot do without.
constexpr std::size_t kLeastLocked = std::size_t{4} << 20;

std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const auto end = std::min(text.find(','), text.size());
    if (end > 0) parts.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parts;
}

std::string join(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : ", ") + part;
  return text.empty() ? "none" : text;
}

/// Network interfaces that are up.
std::vector<std::string> interfaces_up() {
  std::vector<std::string> names;
  ::ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) return names;
  const std::unique_ptr<::ifaddrs, void (*)(::ifaddrs*)> owner(first, &::freeifaddrs);
  for (const ::ifaddrs* each = first; each != nullptr; each = each->ifa_next) {
    const std::string name = each->ifa_name;
    if ((each->ifa_flags & IFF_UP) != 0 &&
        std::find(names.begin(), names.end(), name) == names.end())
      names.push_back(name);
  }
  return names;
}

/// Whether UCX's list, which may be one of exceptions, names it; an empty one names all.
bool selects(const std::string& list, const std::vector<std::string>& names) {
  const bool all_but = list.starts_with('^');
  const auto parts = split(std::string_view(list).substr(all_but ? 1 : 0));
  const bool named = std::any_of(parts.begin(), parts.end(), [&](const std::string& part) {
    return part == "all" ||
           std::find(names.begin(), names.end(), part.substr(0, part.find(':'))) != names.end();
  });
  return parts.empty() || named != all_but;
}

/// UCX needs a transport that reaches other processes, and tells when one of them has died.
std::string transports_advice(bool has_rdma) {
  const std::string setting = environment("UCX_TLS");
  if (setting.empty() || setting.starts_with('^')) return "";
  bool rdma = false;
  for (const std::string& name : split(setting)) {
    if (name == "all" || name == "tcp") return "";
    for (const char* kind : {"rc", "ud", "dc", "ib"}) rdma |= name.starts_with(kind);
  }
  if (rdma && has_rdma) return "";
  return "; UCX_TLS is '" + setting + "', which has none of UCX's transports that reach other " +
         "processes here and tell of their death" +
         (rdma ? ": this host has no RDMA device; add tcp"
               : ": add tcp, or rc where there is RDMA");
}

std::string devices_advice(const std::string& setting, const std::string& what,
                           const std::vector<std::string>& up,
                           const std::vector<std::string>& rdma) {
  const auto has = [](const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  std::vector<std::string> missing;
  for (const std::string& name : split(setting)) {
    if (name == "all" || name.starts_with('^')) return "";
    // "mlx5_0:1" is a port of a device.
    const std::string device = name.substr(0, name.find(':'));
    if (has(up, device) || has(rdma, device)) return "";
    missing.push_back(name);
  }
  if (missing.empty()) return "";
  return "; " + what + " is '" + setting +
         "', of which nothing is here and up; network interfaces: " + join(up) +
         "; RDMA devices: " + join(rdma);
}

/// Whether memory may be locked beyond the limit.
bool may_lock_any_amount() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with("CapEff:")) continue;
    return (std::strtoull(line.c_str() + 7, nullptr, 16) >> CAP_IPC_LOCK & 1) != 0;
  }
  return false;
}

/// For `bytes` that RDMA would have to lock.
std::string locking_advice(std::size_t bytes) {
  ::rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur >= bytes ||
      may_lock_any_amount()) {
    return "";
  }
  return "; this process may lock " + std::to_string(limit.rlim_cur / 1024) +
         " KiB of memory, and RDMA locks what is registered: raise RLIMIT_MEMLOCK "
         "(ulimit -l unlimited)";
}

/// The first line of a file that each port of an RDMA device has; empty where one has it not.
std::vector<std::string> of_ports(const std::string& device, const std::string& file) {
  std::vector<std::string> lines;
  std::error_code none;
  const auto ports = std::filesystem::path("/sys/class/infiniband") / device / "ports";
  for (const auto& port : std::filesystem::directory_iterator(ports, none)) {
    std::ifstream stream(port.path() / file);
    std::getline(stream, lines.emplace_back());
  }
  return lines;
}

bool is_active(const std::string& device) {
  const auto states = of_ports(device, "state");
  return std::any_of(states.begin(), states.end(), [](const std::string& state) {
    return state.find("ACTIVE") != std::string::npos;
  });
}

/// An RDMA device's address is one of a table, by its index.
bool has_address(const std::string& device, const std::string& index) {
  const auto addresses = of_ports(device, "gids/" + index);
  return std::any_of(addresses.begin(), addresses.end(), [](const std::string& address) {
    return address.find_first_not_of("0:") != std::string::npos;
  });
}

/// What keeps UCX from a device that is here.
std::string rdma_advice(const std::vector<std::string>& devices) {
  if (devices.empty()) return "";
  std::string advice = locking_advice(kLockedAtStart);
  const std::string index = environment("UCX_IB_GID_INDEX");
  const bool has_index = !index.empty() && index != "auto";
  for (const std::string& device : devices) {
    if (!is_active(device)) {
      advice += "; no port of the RDMA device '" + device + "' is up";
    } else if (has_index && !has_address(device, index)) {
      advice += "; UCX_IB_GID_INDEX is '" + index + "', an address that the RDMA device '" +
                device + "' does not have (/sys/class/infiniband/" + device + "/ports/*/gids)";
    }
  }
  return advice;
}

/// Whether this process may open it, as UCX does.
bool may_open(const std::string& device) {
  std::error_code none;
  for (const auto& entry :
       std::filesystem::directory_iterator("/sys/class/infiniband_verbs", none)) {
    std::ifstream stream(entry.path() / "ibdev");
    std::string name;
    std::getline(stream, name);
    const auto node = std::filesystem::path("/dev/infiniband") / entry.path().filename();
    if (name == device && ::access(node.c_str(), R_OK | W_OK) == 0) return true;
  }
  return false;
}

std::string home_advice() {
  const std::string home = environment("HOME");
  std::error_code error;
  static_cast<void>(std::filesystem::exists(std::filesystem::path(home) / ".nixl.cfg", error));
  if (home.empty() || !error) return "";
  return "; HOME is '" + home + "', which may not be looked into (" + error.message() +
         "): NIXL looks for its settings there; set HOME to a folder of this user";
}

}  // namespace

std::string start_advice(const std::string& device_list) {
  const auto up = interfaces_up();
  const auto rdma = rdma_devices();
  std::string advice = home_advice() + transports_advice(!rdma.empty());
  if (up.empty()) advice += "; no network interface is up, not even lo: UCX needs one";
  advice += devices_advice(environment("UCX_NET_DEVICES"), "UCX_NET_DEVICES", up, rdma);
  advice += devices_advice(device_list, "the backend's device_list", up, rdma);
  advice += rdma_advice(rdma);
  advice += cuda_start_advice();
  if (advice.empty()) advice = "; UCX_LOG_LEVEL=info has UCX say why, on standard output";
  return advice;
}

std::string endless_start(const std::string& device_list) {
  static const std::vector<std::string> transports{
      "ib", "rc",   "rc_v", "rc_x", "rc_verbs", "rc_mlx5", "ud",
      "dc", "ud_v", "ud_x", "dc_x", "ud_verbs", "ud_mlx5", "dc_mlx5"};
  if (locking_advice(kLeastLocked).empty() || !selects(environment("UCX_TLS"), transports)) {
    return "";
  }
  const std::string list = device_list.empty() ? environment("UCX_NET_DEVICES") : device_list;
  for (const std::string& device : rdma_devices()) {
    if (selects(list, {device}) && is_active(device) && may_open(device)) {
      return "UCX would wait for ever for locked memory, for the RDMA device '" + device +
             "'; UCX_TLS=^ib does without";
    }
  }
  return "";
}

std::string registration_advice(const std::vector<Region>& regions) {
  std::string advice = cuda_registration_advice(regions);
  std::size_t bytes = 0;
  for (const Region& region : regions) {
    if (region.type != kDram) continue;
    bytes += region.size;
    if (is_mapped(region.address, region.size)) continue;
    char address[24];
    std::snprintf(address, sizeof address, "%#zx", region.address);
    return advice + "; of the " + std::to_string(region.size) + " bytes at " + address +
           " not all are mapped: was the memory freed?";
  }
  if (!rdma_devices().empty()) advice += locking_advice(bytes);
  return advice;
}

NIXL_CONNECT_NAMESPACE_END
