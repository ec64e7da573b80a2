#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// An agent is its name and its address: of two that say the same name neither is the other.
struct PeerId {
  std::string name;
  std::string address;
};

/// The same, of somebody else's text.
struct PeerIdView {
  std::string_view name;
  std::string_view address;

  PeerIdView(std::string_view its_name, std::string_view its_address) noexcept
      : name(its_name), address(its_address) {}
  PeerIdView(const PeerId& id) noexcept : name(id.name), address(id.address) {}
  bool operator==(const PeerIdView&) const = default;
  PeerId copy() const { return {std::string(name), std::string(address)}; }
};

struct PeerIdHash {
  using is_transparent = void;
  std::size_t operator()(const PeerIdView& id) const noexcept {
    return std::hash<std::string_view>{}(id.name);
  }
};
struct PeerIdEqual {
  using is_transparent = void;
  bool operator()(const PeerIdView& a, const PeerIdView& b) const noexcept { return a == b; }
};

template <typename Value>
using ByPeer = std::unordered_map<PeerId, Value, PeerIdHash, PeerIdEqual>;

NIXL_CONNECT_NAMESPACE_END
