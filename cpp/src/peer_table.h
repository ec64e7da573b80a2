#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "agent.h"
#include "blob.h"
#include "nixl_connect/api.h"
#include "region_index.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// One loading of a remote agent. NIXL forgets it when the last holder does: the table while
/// it is current, and each operation that uses it.
class Peer {
 public:
  Peer(Agent& agent, std::string name_here, bool is_self)
      : alias(std::move(name_here)), agent_(agent), is_self_(is_self) {}
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;
  ~Peer() {
    if (!is_self_) agent_.forget_remote(alias);
  }

  /// What NIXL calls it here.
  const std::string alias;
  /// Where the backend reaches it.
  std::string address;
  /// The remote key of each region that is loaded.
  RegionIndex<std::string> remote_keys;
  /// Whether a transfer to or from it has succeeded.
  bool reached = false;
  /// Whether one has failed, as all others then will.
  bool broken = false;
  /// When the table last gave it out, in no unit.
  std::uint64_t used = 0;

 private:
  Agent& agent_;
  const bool is_self_;
};

/// The remote agents that this one has loaded, and what of each.
///
/// NIXL only ever adds to what it has loaded for a peer. Given the same region with another
/// remote key it refuses, and erases everything loaded for that peer, flights or not; given an
/// overlap it may pick the stale one; and after some refusals it can never load a peer of that
/// name again, because its backend keeps the connection (read in NIXL 1.5.1). So this table
/// looks first, and loads what would clash, what would make a peer's table grow past its bound,
/// or what is offered by a peer whose last transfer failed, as another peer: under an alias, of
/// its own endpoint and regions. What flies under the old alias goes on; NIXL forgets that
/// alias when the last of its flights has ended. Nothing waits, and nobody else notices.
///
/// Thread safety: used by the engine's thread.
class PeerTable {
 public:
  PeerTable(Agent& agent, std::string backend, std::size_t max_regions, std::size_t max_peers)
      : agent_(agent),
        backend_(std::move(backend)),
        max_regions_(max_regions),
        max_peers_(max_peers) {}

  /// Makes the blob's regions usable. Throws `AgentError` when NIXL refuses them.
  std::shared_ptr<Peer> admit(const Blob& blob);

  /// The peer's next operation has it loaded afresh.
  void retire(const Peer& peer);

  std::size_t size() const noexcept { return current_.size(); }

 private:
  bool fits(const Peer& peer, const Blob& blob, std::size_t& added) const;
  void load(Peer& peer, const Blob& blob);
  void make_room();

  Agent& agent_;
  const std::string backend_;
  const std::size_t max_regions_;
  const std::size_t max_peers_;
  std::uint64_t loadings_ = 0;
  std::uint64_t uses_ = 0;
  std::unordered_map<std::string, std::shared_ptr<Peer>> current_;
};

/// The address that `backend` would use, of those in the blob; empty when it has none.
std::string_view address_for(const Blob& blob, std::string_view backend) noexcept;

/// Whether a section of `backend` in the blob holds a region that covers `region`.
bool offers(const Blob& blob, std::string_view backend, const Region& region) noexcept;

NIXL_CONNECT_NAMESPACE_END
