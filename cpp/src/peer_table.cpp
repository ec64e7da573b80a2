#include "peer_table.h"

#include <algorithm>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

template <typename Visit>
void for_each_element(const Blob& blob, std::string_view backend, Visit visit) {
  for (const Blob::Section& section : blob.sections()) {
    if (section.backend != backend) continue;
    for (const Blob::Element& element : section.elements) visit(element);
  }
}

}  // namespace

std::string_view address_for(const Blob& blob, std::string_view backend) noexcept {
  for (const Blob::Connection& connection : blob.connections()) {
    if (connection.backend == backend) return connection.address;
  }
  return {};
}

bool offers(const Blob& blob, std::string_view backend, const Region& region) noexcept {
  bool found = false;
  for_each_element(blob, backend, [&](const Blob::Element& element) {
    found = found || element.region.covers(region);
  });
  return found;
}

std::shared_ptr<Peer> PeerTable::admit(const Blob& blob) {
  const std::string name(blob.agent());
  if (name == agent_.name()) {
    // An agent knows its own regions, and cannot load its own metadata.
    return std::make_shared<Peer>(agent_, name, true);
  }

  if (const auto it = current_.find(name); it != current_.end()) {
    const std::shared_ptr<Peer> peer = it->second;
    std::size_t added = 0;
    if (fits(*peer, blob, added)) {
      try {
        if (added > 0) load(*peer, blob);
        peer->used = ++uses_;
        return peer;
      } catch (const AgentError&) {
        // Its endpoint may have failed since; NIXL has erased what was loaded either way.
      }
    }
    current_.erase(it);
  }

  make_room();
  auto peer = std::make_shared<Peer>(agent_, name + "#" + std::to_string(++loadings_), false);
  peer->address = address_for(blob, backend_);
  peer->used = ++uses_;
  load(*peer, blob);
  current_.emplace(name, peer);
  return peer;
}

void PeerTable::retire(const Peer& peer) {
  const auto it = std::find_if(current_.begin(), current_.end(),
                               [&](const auto& entry) { return entry.second.get() == &peer; });
  if (it != current_.end()) current_.erase(it);
}

bool PeerTable::fits(const Peer& peer, const Blob& blob, std::size_t& added) const {
  bool clash = peer.broken || peer.address != address_for(blob, backend_);
  for_each_element(blob, backend_, [&](const Blob::Element& element) {
    bool covered = false;
    peer.remote_keys.for_each_overlapping(element.region, [&](const auto& known) {
      // Two regions with the same remote key are equally good, whichever NIXL picks.
      if (known.second != element.remote_key) {
        clash = true;
      } else if (known.first.covers(element.region)) {
        covered = true;
      }
    });
    if (!covered) ++added;
  });
  return !clash && peer.remote_keys.size() + added <= max_regions_;
}

void PeerTable::load(Peer& peer, const Blob& blob) {
  agent_.load_remote(blob.renamed(peer.alias));
  for_each_element(blob, backend_, [&](const Blob::Element& element) {
    peer.remote_keys.insert(element.region, std::string(element.remote_key));
  });
}

void PeerTable::make_room() {
  if (current_.size() < max_peers_) return;
  const auto oldest = std::min_element(
      current_.begin(), current_.end(),
      [](const auto& a, const auto& b) { return a.second->used < b.second->used; });
  current_.erase(oldest);
}

NIXL_CONNECT_NAMESPACE_END
