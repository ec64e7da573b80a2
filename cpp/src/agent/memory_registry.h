#pragma once

#include <cstddef>
#include <vector>

#include "agent/agent.h"
#include "agent/region_index.h"
#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// The agent's registered memory, counted: the second user of a region, or of a part of one,
/// shares the registration, and the last one out removes it.
///
/// Shared is what NIXL itself will find (`RegionIndex::nixl_finds`); otherwise the wanted
/// memory is registered exactly. A lease holds *every* registration that covers the wanted
/// memory, because NIXL picks any of them for a transfer, and the one it picked must stay.
///
/// Who has leases, and so keeps memory registered: each operation that is offered, lingers or is in
/// flight (`Flight::lease`), until it is settled; and each `Registration` that somebody made by
/// hand.
///
/// Thread safety: for whoever has the agent lock.
class MemoryRegistry {
 public:
  using Lease = std::vector<Region>;

  explicit MemoryRegistry(Agent& agent) : agent_(agent) {}

  /// Throws `AgentError`, and holds nothing then.
  Lease acquire(const std::vector<Region>& wanted);
  /// Of one lease, or of several joined: NIXL is asked once for all.
  void release(const Lease& lease) noexcept;

  /// For each wanted region the smallest registered one that covers it, without repeats: what
  /// the metadata for a peer names that may use the wanted ones. They must be leased.
  std::vector<Region> covering(const std::vector<Region>& wanted) const;

  /// How many regions `covering` would give, had the wanted ones been leased: so many at least.
  std::size_t least_covering(const std::vector<Region>& wanted) const;

  /// Regions registered now.
  std::size_t size() const noexcept { return users_.size(); }

 private:
  /// All regions are of one memory type.
  void acquire(const std::vector<Region>& wanted, Lease& lease);

  Agent& agent_;
  RegionIndex<std::size_t> users_;
};

NIXL_CONNECT_NAMESPACE_END
