#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "agent.h"
#include "blob.h"
#include "nixl_connect/api.h"
#include "region_index.h"

NIXL_CONNECT_NAMESPACE_BEGIN

struct ConnectionState;

/// A remote agent as this one knows it.
struct Peer {
  std::string name;
  /// Where the backend reaches it; empty while nothing is loaded.
  std::string address;
  /// The remote key of each region that is loaded.
  RegionIndex<std::string> remote_keys;
  /// Transfers that NIXL has not let go of.
  std::size_t flights = 0;
  /// Whether a transfer to or from it has ever succeeded since it was loaded.
  bool reached = false;
  /// Whether it must be forgotten and loaded afresh once its flights have ended.
  bool stale = false;
  /// Operations that wait for that.
  std::vector<std::shared_ptr<ConnectionState>> parked;
};

/// The remote agents that this one has loaded, and what of each.
///
/// NIXL only ever adds to what it has loaded for a peer. Given the same region with another
/// remote key it refuses, and erases everything loaded for that peer, flights or not; given
/// an overlap it may pick the stale one. So this table looks first: a blob that would clash,
/// or that would make a peer's table grow past its bound, waits until that peer's flights
/// have ended; then the peer is forgotten and loaded afresh. Other peers notice nothing.
///
/// Thread safety: used by the engine's thread.
class PeerTable {
 public:
  PeerTable(Agent& agent, std::string backend, std::size_t max_regions)
      : agent_(agent), backend_(std::move(backend)), max_regions_(max_regions) {}

  /// The blob's peer, made if unknown. The reference is good until the table goes.
  Peer& peer_of(const Blob& blob);

  /// Makes the blob's regions usable. Returns false when that has to wait for the peer's
  /// flights. Throws `AgentError` when NIXL refuses, and has nothing loaded for it then.
  bool admit(Peer& peer, const Blob& blob);

  template <typename Visit>
  void for_each_parked(Visit visit) const {
    for (const auto& [name, peer] : peers_) {
      for (const auto& operation : peer->parked) visit(operation);
    }
  }

  /// Whether messages can be sent to the peer.
  bool can_notify(const Peer& peer) const noexcept {
    return !peer.stale && (!peer.address.empty() || is_self(peer));
  }

 private:
  bool is_self(const Peer& peer) const noexcept { return peer.name == agent_.name(); }
  void load(Peer& peer, const Blob& blob);
  void forget(Peer& peer) noexcept;

  Agent& agent_;
  const std::string backend_;
  const std::size_t max_regions_;
  std::unordered_map<std::string, std::unique_ptr<Peer>> peers_;
};

/// The address that `backend` would use, of those in the blob; empty when it has none.
std::string_view address_for(const Blob& blob, std::string_view backend) noexcept;

/// Whether a section of `backend` in the blob holds a region that covers `region`.
bool offers(const Blob& blob, std::string_view backend, const Region& region) noexcept;

NIXL_CONNECT_NAMESPACE_END
