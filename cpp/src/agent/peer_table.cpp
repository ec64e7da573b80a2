#include "agent/peer_table.h"

#include <algorithm>
#include <limits>

#include "nixl_connect/error.h"
#include "wire/coverage.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// How many loaded regions each offered one may be compared with, on average.
constexpr std::size_t kComparedOfEach = 256;

PeerIdView id_of(const RemoteOffer& offer) noexcept { return {offer.blob->agent(), offer.address}; }

Region everywhere(const Region& like) {
  return {like.type, like.device, 1, std::numeric_limits<std::size_t>::max() - 1};
}

bool has_one_key_at_each_place(const RemoteOffer& offer) {
  std::map<std::pair<MemoryType, std::uint64_t>, std::string_view> keys;
  for (std::size_t i = 0; i < offer.regions.size(); ++i) {
    const Region& region = offer.regions[i];
    if (region.type != kDram) continue;
    const auto [it, first] = keys.try_emplace({region.type, region.device}, offer.remote_keys[i]);
    if (!first && it->second != offer.remote_keys[i]) return false;
  }
  return true;
}

/// Whether the metadata itself still lists a region that covers this one, with this key.
bool still_offered(const Blob& blob, const Region& region, std::string_view key) {
  for (const Blob::Section& section : blob.sections()) {
    for (const Blob::Element& element : section.elements) {
      if (element.remote_key == key && element.region.covers(region)) return true;
    }
  }
  return false;
}

/// Whether one of the keys is another than the one that is loaded for its whole place.
bool clashes_with_single_key(const Peer& peer, const RemoteOffer& offer) {
  for (std::size_t i = 0; i < offer.regions.size(); ++i) {
    const Region& region = offer.regions[i];
    const auto it = peer.single_keys.find({region.type, region.device});
    if (it != peer.single_keys.end() && it->second != offer.remote_keys[i]) return true;
  }
  return false;
}

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

  keys_differ = keys_differ || !has_one_key_at_each_place(offer);
  std::vector<Blob::Element> missing;
  const PeerIdView id = id_of(offer);
  if (const auto it = current_.find(id); it != current_.end()) {
    std::shared_ptr<Peer> peer = it->second;
    const bool has_more_keys = keys_differ && !peer->keys_differ;
    keys_differ = keys_differ || peer->keys_differ;
    if (!peer->broken) {
      if (has_more_keys || !fits(*peer, offer, missing)) {
        keys_differ = keys_differ || clashes_with_single_key(*peer, offer);
      } else {
        try {
          peer->used = ++uses_;
          if (wants_notice_endpoint(*peer)) {
            peer->notice_endpoint = load_new(offer, peer->keys_differ);
            peer->notice_endpoint->reached = true;
            return peer->notice_endpoint;
          }
          if (!missing.empty()) load(*peer, missing);
          return peer;
        } catch (const AgentError&) {
          // Its endpoint may have failed since; NIXL has erased what was loaded either way.
        }
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
  const bool keys_differ = !has_one_key_at_each_place(offer);
  if (endpoint != nullptr && !endpoint->broken) {
    std::vector<Blob::Element> missing;
    const bool has_more_keys = keys_differ && !endpoint->keys_differ;
    if (!has_more_keys && fits(*endpoint, offer, missing)) {
      if (!missing.empty()) load(*endpoint, missing);
      return endpoint;
    }
  }
  return load_new(offer, keys_differ);
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
  std::vector<Blob::Element> elements;
  fits(*peer, offer, elements);
  load(*peer, elements);
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
  const auto it = current_.find(PeerIdView(peer.name, peer.address));
  if (it == current_.end()) return;
  const Peer& current = *it->second;
  if (&current == &peer || current.notice_endpoint.get() == &peer) current_.erase(it);
}

void PeerTable::succeeded(Peer& peer) {
  peer.proven = true;
  if (peer.reached) return;
  peer.reached = true;
  failed_.succeeded({peer.name, peer.address});
}

bool PeerTable::fits(const Peer& peer, const RemoteOffer& offer,
                     std::vector<Blob::Element>& missing) const {
  // A peer may offer thousands of regions that overlap: to load it afresh takes less then.
  const std::size_t most_compared = kComparedOfEach * (offer.regions.size() + kComparedOfEach);
  std::size_t compared = 0;
  for (std::size_t i = 0; i < offer.regions.size(); ++i) {
    const Region& region = offer.regions[i];
    const std::string_view key = offer.remote_keys[i];
    if (peer.has_single_key(region)) {
      const auto it = peer.single_keys.find({region.type, region.device});
      if (it == peer.single_keys.end()) {
        missing.push_back({everywhere(region), key});
      } else if (it->second != key) {
        return false;
      }
      continue;
    }
    // The region itself is what is loaded, so that NIXL's search always finds it.
    bool loaded = false;
    bool clash = false;
    peer.remote_keys.for_each_overlapping(region, [&](const auto& known) {
      ++compared;
      if (known.second == key) {
        loaded = loaded || known.first == region;
      } else {
        compared += offer.regions.size();
        clash = !still_offered(*offer.blob, known.first, known.second);
      }
      clash = clash || compared > most_compared;
      return !clash;
    });
    if (clash) return false;
    if (!loaded) missing.push_back({region, key});
  }
  std::sort(missing.begin(), missing.end(),
            [](const auto& a, const auto& b) { return a.region < b.region; });
  const auto repeats =
      std::unique(missing.begin(), missing.end(),
                  [](const auto& a, const auto& b) { return a.region == b.region; });
  missing.erase(repeats, missing.end());
  // One offer may exceed the bound by itself, when there is nothing else.
  const std::size_t known = peer.remote_keys.size();
  return missing.empty() || known == 0 || known + missing.size() <= max_regions_;
}

void PeerTable::load(Peer& peer, const std::vector<Blob::Element>& elements) {
  agent_.load_remote(Blob::make(peer.alias, backend_, peer.address, elements));
  for (const Blob::Element& element : elements) {
    const std::string key(element.remote_key);
    if (peer.has_single_key(element.region)) {
      peer.single_keys.insert_or_assign({element.region.type, element.region.device}, key);
    } else {
      peer.remote_keys.insert(element.region, key);
    }
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
