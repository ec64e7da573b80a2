#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

struct ConnectionState;

/// From a notification to the operation that it ends: one look-up, and the entry is gone.
/// What matches nothing is counted, not kept.
///
/// Thread safety: used by the engine's thread.
class NotificationRouter {
 public:
  struct Match {
    std::shared_ptr<ConnectionState> operation;  ///< Null when nothing waits for the message.
    bool failed = false;                         ///< The peer reports a failure, not an end.
    std::string reason;                          ///< The peer's word for it.
  };

  void add(std::shared_ptr<ConnectionState> operation);
  void remove(const ConnectionState& operation);
  Match take(std::string_view message);

  /// What to send when an operation did not succeed. Peers that don't know it take it for a
  /// key that matches nothing.
  static std::string failure_notice(std::string_view key, std::string_view reason);

  bool empty() const noexcept { return waiting_.empty(); }
  std::size_t size() const noexcept { return waiting_.size(); }
  std::uint64_t matched() const noexcept { return matched_; }
  std::uint64_t unknown() const noexcept { return unknown_; }

  template <typename Visit>
  void for_each(Visit visit) const {
    for (const auto& [key, operation] : waiting_) visit(operation);
  }

 private:
  std::unordered_map<std::string, std::shared_ptr<ConnectionState>> waiting_;
  std::uint64_t matched_ = 0;
  std::uint64_t unknown_ = 0;
};

NIXL_CONNECT_NAMESPACE_END
