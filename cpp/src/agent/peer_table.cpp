#include "agent/peer_table.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <optional>

#include "nixl_connect/error.h"
#include "wire/coverage.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

PeerIdView id_of(const RemoteOffer& offer) noexcept { return {offer.blob->agent(), offer.address}; }

/// Whether the peer's next operation has it loaded once more, for notices. With RDMA an endpoint
/// need not hear from the peer, and another one would cost queue pairs.
bool wants_notice_endpoint(const Peer& peer) {
  return peer.reached && peer.notice_endpoint == nullptr && !peer.keys_differ;
}

}  // namespace

RemoteOffer RemoteOffer::resolve(std::shared_ptr<const Blob> blob, std::string_view backend,
                                 std::vector<Region> regions) {
  RemoteOffer offer;
  for (const Blob::Connection& connection : blob->connections()) {
    if (connection.backend == backend) offer.address = connection.address;
  }
  if (offer.address.empty()) {
    throw Error(ErrorCode::rejected_metadata,
                "remote_metadata.nixl_metadata: no connection information for backend '" +
                    std::string(backend) + "'");
  }
  std::vector<Region> offered;
  std::vector<std::string_view> keys;
  for (const Blob::Section& section : blob->sections()) {
    if (section.backend != backend) continue;
    for (const Blob::Element& element : section.elements) {
      offered.push_back(element.region);
      keys.push_back(element.remote_key);
    }
  }
  const auto covering = smallest_covering(offered, regions);
  offer.remote_keys.reserve(regions.size());
  for (std::size_t i = 0; i < regions.size(); ++i) {
    if (covering[i] == kNotCovered) {
      throw Error(ErrorCode::rejected_metadata,
                  "remote_metadata.descriptors[" + std::to_string(i) +
                      "]: not among the regions that remote_metadata.nixl_metadata offers");
    }
    offer.remote_keys.push_back(keys[covering[i]]);
  }
  offer.regions = std::move(regions);
  offer.blob = std::move(blob);
  return offer;
}

std::vector<Region> Peer::as_loaded(const RemoteOffer& offer) const {
  if (is_self) return offer.regions;
  std::vector<Region> regions = offer.regions;
  auto known = devices_.end();
  for (std::size_t i = 0; i < regions.size(); ++i) {
    const KeyView key{regions[i].type, offer.remote_keys[i]};
    if (known == devices_.end() || KeyView(known->first) != key) known = devices_.find(key);
    regions[i].device = known->second;
  }
  return regions;
}

RemoteOffer RemoteOffer::cut(std::size_t begin, std::size_t end) const {
  RemoteOffer part;
  part.blob = blob;
  part.address = address;
  part.regions = cut_regions(regions, begin, end,
                             [&](std::size_t i) { part.remote_keys.push_back(remote_keys[i]); });
  return part;
}

RemoteOffer RemoteOffer::pick(const std::vector<std::size_t>& indices) const {
  RemoteOffer part;
  part.blob = blob;
  part.address = address;
  for (const std::size_t i : indices) {
    part.regions.push_back(regions[i]);
    part.remote_keys.push_back(remote_keys[i]);
  }
  return part;
}

std::shared_ptr<Peer> PeerTable::admit(const RemoteOffer& offer, bool keys_differ) {
  const std::string_view name = offer.blob->agent();
  if (name == agent_.name()) {
    // An agent knows its own regions, and cannot load its own metadata.
    if (self_ == nullptr) {
      self_ = std::make_shared<Peer>(agent_, std::string(name), std::string(name), true);
    }
    return self_;
  }

  const PeerIdView id = id_of(offer);
  if (const auto it = current_.find(id); it != current_.end()) {
    std::shared_ptr<Peer> peer = it->second;
    peer->keys_differ = keys_differ = keys_differ || peer->keys_differ;
    const auto keys = missing(*peer, offer);
    if (!peer->broken && has_room(*peer, keys.size())) {
      try {
        peer->used = ++uses_;
        if (!keys.empty()) load(*peer, keys);
        if (!wants_notice_endpoint(*peer)) return peer;
        peer->notice_endpoint = load_new(offer, false);
        peer->notice_endpoint->reached = true;
        return peer->notice_endpoint;
      } catch (const AgentError&) {
        // Its endpoint may have failed since; NIXL has erased what was loaded either way.
      }
    }
    current_.erase(it);
  }

  if (!failed_.may_try(id, FailedPeers::Clock::now())) {
    throw AgentError("load_remote_md failed a moment ago, and is not tried again yet",
                     capi::kBackend);
  }
  make_room();
  try {
    auto peer = load_new(offer, keys_differ);
    peer->used = ++uses_;
    current_.insert_or_assign(id.copy(), peer);
    return peer;
  } catch (const AgentError&) {
    failed_.failed(id, FailedPeers::Clock::now());
    throw;
  }
}

std::shared_ptr<Peer> PeerTable::connect(const RemoteOffer& offer, bool keys_differ) {
  auto peer = admit(offer, keys_differ);
  const bool is_notice_endpoint = peer->reached && !peer->proven;
  if (!peer->is_self && !is_notice_endpoint && !peer->keys_differ && !peer->notice_endpoint) {
    peer->notice_endpoint = load_new(offer, false);
  }
  return peer;
}

std::shared_ptr<Peer> PeerTable::admit_alone(const RemoteOffer& offer,
                                             const std::shared_ptr<Peer>& endpoint) {
  if (endpoint != nullptr && !endpoint->broken) {
    const auto keys = missing(*endpoint, offer);
    if (has_room(*endpoint, keys.size())) {
      if (!keys.empty()) load(*endpoint, keys);
      return endpoint;
    }
  }
  return load_new(offer, false);
}

std::shared_ptr<Peer> PeerTable::fresh(const Peer& peer) {
  const PeerIdView id(peer.name, peer.address);
  if (const auto it = current_.find(id); it != current_.end() && !it->second->broken) {
    return it->second;
  }
  RemoteOffer nothing;
  nothing.blob = Blob::parse(Blob::make(peer.name, backend_, peer.address, {}));
  nothing.address = nothing.blob->connections().front().address;
  return admit(nothing);
}

void PeerTable::adopt(const std::shared_ptr<Peer>& endpoint) {
  if (endpoint->broken) return;
  endpoint->used = ++uses_;
  const PeerId id = PeerIdView(endpoint->name, endpoint->address).copy();
  if (!current_.contains(id)) make_room();
  current_.try_emplace(id, endpoint);
}

std::shared_ptr<Peer> PeerTable::load_new(const RemoteOffer& offer, bool keys_differ) {
  const std::string name(offer.blob->agent());
  auto peer = std::make_shared<Peer>(agent_, name, name + "#" + std::to_string(++loadings_), false);
  peer->address = offer.address;
  peer->keys_differ = keys_differ;
  load(*peer, missing(*peer, offer));
  return peer;
}

bool PeerTable::knows(const RemoteOffer& offer) const {
  const auto it = current_.find(id_of(offer));
  return it != current_.end() && it->second->reached && !it->second->broken &&
         !wants_notice_endpoint(*it->second);
}

bool PeerTable::was_reached(const RemoteOffer& offer) const {
  const auto it = current_.find(id_of(offer));
  return it != current_.end() && it->second->reached;
}

void PeerTable::failed(const Peer& peer) {
  if (peer.is_self) self_.reset();
  if (is_current(peer)) current_.erase(current_.find(PeerIdView(peer.name, peer.address)));
}

bool PeerTable::is_current(const Peer& peer) const {
  const auto it = current_.find(PeerIdView(peer.name, peer.address));
  return it != current_.end() &&
         (it->second.get() == &peer || it->second->notice_endpoint.get() == &peer);
}

void PeerTable::succeeded(Peer& peer) {
  peer.proven = true;
  if (peer.reached) return;
  peer.reached = true;
  failed_.succeeded({peer.name, peer.address});
}

std::set<Peer::KeyView> PeerTable::missing(const Peer& peer, const RemoteOffer& offer) {
  std::set<Peer::KeyView> keys;
  std::optional<Peer::KeyView> last;
  for (std::size_t i = 0; i < offer.regions.size(); ++i) {
    const Peer::KeyView key{offer.regions[i].type, offer.remote_keys[i]};
    if (key == last) continue;
    last = key;
    if (!peer.devices_.contains(key)) keys.insert(key);
  }
  return keys;
}

void PeerTable::load(Peer& peer, const std::set<Peer::KeyView>& keys) {
  std::vector<Blob::Element> elements;
  elements.reserve(keys.size());
  std::uint64_t device = peer.devices_.size();
  for (const auto& [type, key] : keys) {
    // Every address but the first and the last, for NIXL 1.5.1 adds to them.
    elements.push_back({{type, device++, 1, std::numeric_limits<std::size_t>::max() - 1}, key});
  }
  agent_.load_remote(Blob::make(peer.alias, backend_, peer.address, elements));
  for (const Blob::Element& element : elements) {
    peer.devices_.emplace(Peer::Key(element.region.type, element.remote_key),
                          element.region.device);
  }
  // Those of host memory come first.
  if (peer.devices_.size() > 1 && std::next(peer.devices_.begin())->first.first == kDram) {
    peer.keys_differ = true;
  }
}

void PeerTable::make_room() {
  if (current_.size() < max_peers_) return;
  const auto oldest = std::min_element(
      current_.begin(), current_.end(),
      [](const auto& a, const auto& b) { return a.second->used < b.second->used; });
  current_.erase(oldest);
}

NIXL_CONNECT_NAMESPACE_END
