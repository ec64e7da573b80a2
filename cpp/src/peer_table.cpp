#include "peer_table.h"

#include "connection_state.h"

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

Peer& PeerTable::peer_of(const Blob& blob) {
  auto& peer = peers_[std::string(blob.agent())];
  if (peer == nullptr) {
    peer = std::make_unique<Peer>();
    peer->name = blob.agent();
  }
  return *peer;
}

bool PeerTable::admit(Peer& peer, const Blob& blob) {
  // An agent knows its own regions, and cannot load its own metadata.
  if (is_self(peer)) return true;

  std::size_t added = 0;
  bool clash = peer.stale || peer.address != address_for(blob, backend_);
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

  if (!peer.address.empty() || peer.stale) {
    if (clash || peer.remote_keys.size() + added > max_regions_) {
      if (peer.flights > 0) {
        peer.stale = true;
        return false;
      }
      forget(peer);
    } else if (added == 0) {
      return true;
    }
  }
  load(peer, blob);
  return true;
}

void PeerTable::load(Peer& peer, const Blob& blob) {
  try {
    agent_.load_remote(blob.bytes());
  } catch (const AgentError&) {
    forget(peer);
    throw;
  }
  peer.address = address_for(blob, backend_);
  for_each_element(blob, backend_, [&](const Blob::Element& element) {
    peer.remote_keys.insert(element.region, std::string(element.remote_key));
  });
}

void PeerTable::forget(Peer& peer) noexcept {
  agent_.forget_remote(peer.name);
  peer.address.clear();
  peer.remote_keys = {};
  peer.reached = false;
  peer.stale = false;
}

NIXL_CONNECT_NAMESPACE_END
