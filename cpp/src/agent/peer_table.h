#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "agent/agent.h"
#include "agent/failed_peers.h"
#include "agent/peer_id.h"
#include "nixl_connect/api.h"
#include "wire/blob.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// What one operation needs of a remote agent: each region with the remote key that its
/// metadata gives for it.
struct RemoteOffer {
  /// Holds the bytes that the views point into.
  std::shared_ptr<const Blob> blob;
  /// Where the backend reaches the agent.
  std::string_view address;
  std::vector<Region> regions;
  std::vector<std::string_view> remote_keys;

  /// Throws `Error(rejected_metadata)` when the blob has no address of the backend, or does
  /// not offer one of the regions. Thread safe.
  static RemoteOffer resolve(std::shared_ptr<const Blob> blob, std::string_view backend,
                             std::vector<Region> regions);

  /// As `cut_regions`, with each region's key.
  RemoteOffer cut(std::size_t begin, std::size_t end) const;
  /// Of these regions alone.
  RemoteOffer pick(const std::vector<std::size_t>& indices) const;
};

/// One loading of a remote agent. NIXL forgets it when the last holder does: the table while
/// it is current, and each operation that uses it.
class Peer {
 public:
  Peer(Agent& agent, std::string its_name, std::string name_here, bool self)
      : name(std::move(its_name)), alias(std::move(name_here)), is_self(self), agent_(agent) {}
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;
  ~Peer() {
    if (!is_self) agent_.forget_remote(alias);
  }

  /// What it calls itself.
  const std::string name;
  /// What NIXL calls it here.
  const std::string alias;
  /// Whether it is this agent.
  const bool is_self;
  /// Where the backend reaches it.
  std::string address;
  /// Whether the remote keys of its host memory differ by registration, as they do on RDMA.
  bool keys_differ = false;
  /// The offer's regions as NIXL knows them here, for a transfer; all their keys are loaded.
  std::vector<Region> as_loaded(const RemoteOffer& offer) const;
  /// The same agent once more, for notifications: an endpoint that has sent one must hear from the
  /// peer before its next transfer ends, and so this one never sends any. Null until the second
  /// operation, which travels by it; and with RDMA.
  std::shared_ptr<Peer> notice_endpoint;
  /// Whether a transfer to or from the agent has succeeded; and by this endpoint.
  bool reached = false;
  bool proven = false;
  /// Whether one has failed, as all others then will.
  bool broken = false;
  /// When the table last gave it out, in no unit.
  std::uint64_t used = 0;

 private:
  friend class PeerTable;
  using Key = std::pair<MemoryType, std::string>;
  using KeyView = std::pair<MemoryType, std::string_view>;
  struct Less {
    using is_transparent = void;
    bool operator()(const KeyView& a, const KeyView& b) const noexcept { return a < b; }
  };

  Agent& agent_;
  /// The device number of each remote key that is loaded.
  std::map<Key, std::uint64_t, Less> devices_;
};

/// What it means that a peer cannot be loaded, for the beginning of a message.
inline constexpr const char* kNotLoaded =
    "the peer could not be reached: it has ended, or no transport and network that both sides have "
    "leads to it (UCX_TLS, UCX_NET_DEVICES): ";

/// The remote agents that this one has loaded, and what of each.
///
/// NIXL only ever adds to what it has loaded for a peer. Given the same region with another
/// remote key it refuses, and erases everything loaded for that peer, in flight or not; given an
/// overlap it may pick the stale one; and after some refusals it can never load a peer of that
/// name again, because its backend keeps the connection (read in NIXL 1.5.1). So each key is loaded
/// once, for all addresses of a device of its own: NIXL finds keys by device number and address,
/// and its backend UCX makes nothing of a remote region's number. Memory that is registered again,
/// with another key, is then another device's, and nothing clashes. Without RDMA every region of a
/// peer has the same key, byte for byte: whatever the peer offers later is there already. What an
/// operation may touch is what its own metadata says, checked before.
///
/// What would make a peer's keys pass their bound, or is offered by a peer whose last transfer
/// failed, is loaded as another peer: under an alias, of its own endpoint and keys. What is in
/// flight under the old alias goes on; NIXL forgets that alias when the last of its transfers has
/// ended. Nothing waits, and nobody else notices.
///
/// An endpoint that is forgotten, or could not be made, keeps its descriptors until the agent
/// goes (NIXL 1.5.1), so loading afresh is kept rare (`FailedPeers`): what is asked of a peer that
/// is left alone for a while fails at once.
///
/// Thread safety: for whoever has the agent lock.
class PeerTable {
 public:
  PeerTable(Agent& agent, std::string backend, std::size_t max_keys, std::size_t max_peers)
      : agent_(agent),
        backend_(std::move(backend)),
        max_keys_(max_keys),
        max_peers_(max_peers),
        failed_(max_peers) {}

  /// Makes the offer's regions usable, by `Peer::as_loaded`. Throws `AgentError` when NIXL refuses
  /// them, or did so a moment ago.
  std::shared_ptr<Peer> admit(const RemoteOffer& offer, bool keys_differ = false);

  /// The same, with both endpoints, that of the transfers and that of the notices. `keys_differ` is
  /// whether the remote keys of the peer's regions will, which one offer may not show.
  std::shared_ptr<Peer> connect(const RemoteOffer& offer, bool keys_differ);

  /// The same by an endpoint that nobody else uses: this one, if it fits, or a new one.
  std::shared_ptr<Peer> admit_alone(const RemoteOffer& offer,
                                    const std::shared_ptr<Peer>& endpoint);
  /// Others may use it from now on, if they have no better one.
  void adopt(const std::shared_ptr<Peer>& endpoint);

  /// The same agent by the endpoint that is current, or a new one.
  std::shared_ptr<Peer> fresh(const Peer& peer);

  /// Whether notifications can be sent to the peer without its transfers' endpoint.
  static bool has_notice_endpoint(const Peer& peer) noexcept {
    return peer.notice_endpoint != nullptr && peer.notice_endpoint->proven;
  }

  /// Whether to admit the offer is quick: its peer is loaded and has been reached, by both ways.
  bool knows(const RemoteOffer& offer) const;

  /// Whether it is what the table would give out, or goes with that.
  bool is_current(const Peer& peer) const;
  /// Whether a transfer with the offer's peer has succeeded.
  bool was_reached(const RemoteOffer& offer) const;
  const std::string& backend() const noexcept { return backend_; }

  /// A transfer has failed: the peer's next operation has it loaded afresh.
  void failed(const Peer& peer);
  /// A transfer has succeeded.
  void succeeded(Peer& peer);

  std::size_t size() const noexcept { return current_.size(); }

 private:
  /// The keys of the offer that are not loaded yet, each once.
  static std::set<Peer::KeyView> missing(const Peer& peer, const RemoteOffer& offer);
  bool has_room(const Peer& peer, std::size_t more) const noexcept {
    // One offer may exceed the bound by itself, when there is nothing else.
    return more == 0 || peer.devices_.empty() || peer.devices_.size() + more <= max_keys_;
  }
  void load(Peer& peer, const std::set<Peer::KeyView>& keys);
  std::shared_ptr<Peer> load_new(const RemoteOffer& offer, bool keys_differ);
  void make_room();

  Agent& agent_;
  const std::string backend_;
  const std::size_t max_keys_;
  const std::size_t max_peers_;
  std::uint64_t loadings_ = 0;
  std::uint64_t uses_ = 0;
  /// This agent itself, once a transfer has been to it.
  std::shared_ptr<Peer> self_;
  ByPeer<std::shared_ptr<Peer>> current_;
  FailedPeers failed_;
};

NIXL_CONNECT_NAMESPACE_END
