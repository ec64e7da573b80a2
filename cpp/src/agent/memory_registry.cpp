#include "agent/memory_registry.h"

#include <algorithm>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

void sort_unique(std::vector<Region>& regions) {
  if (!std::is_sorted(regions.begin(), regions.end())) std::sort(regions.begin(), regions.end());
  regions.erase(std::unique(regions.begin(), regions.end()), regions.end());
}

}  // namespace

MemoryRegistry::Lease MemoryRegistry::acquire(const std::vector<Region>& wanted) {
  Lease lease;
  try {
    for_each_type(wanted, [&](const std::vector<Region>& some) { acquire(some, lease); });
  } catch (...) {
    release(lease);
    throw;
  }
  return lease;
}

void MemoryRegistry::acquire(const std::vector<Region>& wanted, Lease& lease) {
  if (!users_.nixl_finds(wanted)) {
    std::vector<Region> missing;
    for (const Region& region : wanted) {
      if (users_.find(region) == nullptr) missing.push_back(region);
    }
    sort_unique(missing);
    agent_.register_memory(missing);
    for (const Region& region : missing) users_.insert(region, 0);
  }
  for (const Region& region : wanted) {
    users_.for_each_overlapping(region, [&](auto& entry) {
      auto& [registered, users] = entry;
      if (registered.covers(region) && (lease.empty() || lease.back() != registered)) {
        lease.push_back(registered);
        ++users;
      }
      return true;
    });
  }
}

void MemoryRegistry::release(const Lease& lease) noexcept {
  std::vector<Region> unused;
  for (const Region& region : lease) {
    auto* entry = users_.find(region);
    if (--entry->second == 0) {
      users_.erase(region);
      unused.push_back(region);
    }
  }
  // Those of one memory type are next to one another then.
  std::sort(unused.begin(), unused.end());
  for (auto begin = unused.begin(); begin != unused.end();) {
    const auto end = std::find_if(begin, unused.end(),
                                  [&](const Region& region) { return region.type != begin->type; });
    try {
      agent_.deregister_memory({begin, end});
    } catch (const AgentError&) {
      // NIXL knows nothing of the region then, which is what was wanted.
    }
    begin = end;
  }
}

std::vector<Region> MemoryRegistry::covering(const std::vector<Region>& wanted) const {
  std::vector<Region> found;
  for (const Region& region : wanted) {
    const Region& smallest = users_.smallest_covering(region)->first;
    if (found.empty() || found.back() != smallest) found.push_back(smallest);
  }
  sort_unique(found);
  return found;
}

std::size_t MemoryRegistry::least_covering(const std::vector<Region>& wanted) const {
  std::size_t count = 0;
  for_each_type(wanted, [&](const std::vector<Region>& some) {
    // What NIXL would not find is registered piece by piece.
    std::vector<Region> distinct;
    if (!users_.nixl_finds(some)) distinct = some;
    sort_unique(distinct);
    count += std::max<std::size_t>(distinct.size(), 1);
  });
  return count;
}

NIXL_CONNECT_NAMESPACE_END
