#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/clock.h"
#include "nixl_connect/connection.h"
#include "nixl_connect/metadata.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// What an operation is to do: set when it is made, and never changed.
///
/// Thread safety: immutable.
struct Request {
  /// The connector's name.
  std::shared_ptr<const std::string> connector;
  std::uint64_t number = 0;
  OperationKind kind = OperationKind::unspecified;
  bool passive = false;
  /// The notification key; empty for a part of an operation, whose peer hears of the whole only.
  std::string key;
  std::string remote_name;
  /// Why an active operation declines the offer, and moves nothing.
  std::string declined;
  /// Whether an active operation only connects to the peer.
  bool connects = false;
  /// What a passive operation's metadata names.
  std::vector<RemoteDescriptor> offered;
  /// For how many readers or writers a passive operation is; `kUnlimited` for any number.
  std::uint32_t places = 1;
  std::size_t bytes = 0;
  std::optional<std::chrono::nanoseconds> time_limit;
  Clock::time_point began;
  /// Whether some of the memory here is a GPU's.
  bool on_device = false;
  /// Whether it is a few pieces of the host's memory, and callers may begin what is quick.
  bool few_on_host = false;
  /// And whether they are so small that all is quick: registering, beginning, moving.
  bool small = false;

  /// Whether it is for bytes, and not only a message.
  bool moves_data() const noexcept { return declined.empty() && !connects; }
  /// Why it ends when its connector does.
  Failure closed_failure() const {
    return {ErrorCode::closed, describe() + ": the connector was closed"};
  }
  /// "worker-3".
  std::string name() const { return *connector + "-" + std::to_string(number); }
  /// "read from 'peer' ('worker-3')" or "readable operation 'worker-3'".
  std::string describe() const {
    const bool reads = kind == OperationKind::read;
    if (connects) return "connection to '" + remote_name + "' ('" + name() + "')";
    if (!declined.empty()) return "refusal to '" + remote_name + "' ('" + name() + "')";
    if (passive) {
      return std::string(reads ? "readable" : "writable") + " operation '" + name() + "'";
    }
    return std::string(reads ? "read from '" : "write to '") + remote_name + "' ('" + name() + "')";
  }
};

NIXL_CONNECT_NAMESPACE_END
