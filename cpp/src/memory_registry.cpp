#include "memory_registry.h"

#include <algorithm>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

void sort_unique(std::vector<Region>& regions) {
  std::sort(regions.begin(), regions.end());
  regions.erase(std::unique(regions.begin(), regions.end()), regions.end());
}

}  // namespace

MemoryRegistry::Lease MemoryRegistry::acquire(const std::vector<Region>& wanted) {
  Lease lease;
  std::vector<Region> missing;
  for (const Region& region : wanted) {
    bool covered = false;
    users_.for_each_overlapping(region, [&](const auto& entry) {
      if (!entry.first.covers(region)) return;
      covered = true;
      lease.push_back(entry.first);
    });
    if (!covered) missing.push_back(region);
  }
  if (!missing.empty()) {
    sort_unique(missing);
    agent_.register_memory(missing);
    for (const Region& region : missing) users_.insert(region, 0);
    lease.insert(lease.end(), missing.begin(), missing.end());
  }
  for (const Region& region : lease) ++users_.find(region)->second;
  return lease;
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
  if (unused.empty()) return;
  try {
    agent_.deregister_memory(unused);
  } catch (const AgentError&) {
    // NIXL knows nothing of the region then, which is what was wanted.
  }
}

std::vector<Region> MemoryRegistry::covering(const std::vector<Region>& wanted) {
  std::vector<Region> found;
  found.reserve(wanted.size());
  for (const Region& region : wanted) {
    const Region* smallest = nullptr;
    users_.for_each_overlapping(region, [&](const auto& entry) {
      if (entry.first.covers(region) &&
          (smallest == nullptr || entry.first.size < smallest->size)) {
        smallest = &entry.first;
      }
    });
    found.push_back(*smallest);
  }
  sort_unique(found);
  return found;
}

NIXL_CONNECT_NAMESPACE_END
