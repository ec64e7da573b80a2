#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "agent/agent.h"
#include "agent/memory_registry.h"
#include "agent/peer_table.h"
#include "claims/claim.h"
#include "engine/deadlines.h"
#include "engine/engine_port.h"
#include "engine/readers.h"
#include "nixl_connect/descriptor.h"
#include "nixl_connect/fence.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Where the engine has taken an operation.
enum class Phase : std::uint8_t {
  fresh,      ///< Nothing has been done for it.
  fenced,     ///< Waits for its fences.
  claiming,   ///< Active: waits until the owner lets it begin, or to be begun again.
  offered,    ///< Passive: registered, and a peer may act.
  lingering,  ///< Passive: withdrawn, but a peer may still be at its memory.
  split,      ///< Its parts are under way.
  in_flight,  ///< Active: its transfer is posted.
  settled,    ///< Has ended, and NIXL uses its memory no more.
};

/// What the engine has of one operation.
///
/// Thread safety: whoever makes the operation fills it in; from then on it is for whoever has the
/// agent lock of the operation's engine.
struct Flight {
  struct Part {
    std::shared_ptr<Operation> operation;
    std::shared_ptr<EnginePort> engine;
  };
  /// What a part belongs to. Without an engine it is one of the same engine.
  struct Whole {
    std::shared_ptr<Operation> operation;
    std::shared_ptr<EnginePort> engine;
  };

  /// NIXL uses the memory no more: drops what belongs to it. The lease has been given back, or goes
  /// with the agent. The claims are ended with the memory's release.
  void detach() {
    transfer.reset();
    lease.clear();
    remote = {};
    peer.reset();
    phase = Phase::settled;
  }

  Phase phase = Phase::fresh;
  /// Keep the memory alive.
  std::vector<Descriptor> local;
  std::vector<Region> local_regions;
  RemoteOffer remote;
  /// What must have happened before any of that is used.
  std::vector<Fence> fences;
  /// Most of an operation that is moved in pieces. When all have been, the operation itself moves
  /// what is left, and that notifies the peer.
  std::vector<Part> parts;
  std::size_t parts_left = 0;
  Whole whole;

  /// Of a passive operation.
  Readers readers;
  /// Of an active one: its claim on the peer's offer, in the owner's table; or the number of one
  /// that is made by messages; and whether it has got what it needs to begin.
  std::unique_ptr<Claim> claim;
  std::uint64_t claim_number = 0;
  bool admitted = false;

  std::shared_ptr<Peer> peer;
  MemoryRegistry::Lease lease;
  std::optional<Transfer> transfer;
  /// Whether it has been posted: bytes may be under way.
  bool posted = false;
  /// Whether its endpoint has broken once: its peer is then the one of its second try.
  bool retried = false;
  /// Whether the engine notifies the peer of the completion, and not NIXL with the transfer.
  bool engine_notifies = false;
  std::optional<Deadlines::Entries::iterator> deadline;
};

NIXL_CONNECT_NAMESPACE_END
