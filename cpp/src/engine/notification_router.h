#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

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
    std::shared_ptr<ConnectionState> operation;
    bool failed = false;  ///< The peer reports a failure, not an end.
    std::string reason;   ///< The peer's word for it.
  };

  void add(std::shared_ptr<ConnectionState> operation);
  void remove(const ConnectionState& operation);
  /// The operations that the message ends: mostly one, none when nothing waits for it.
  std::vector<Match> take(std::string_view message);

  /// What to send when an operation did not succeed. Peers that don't know it take it for a
  /// key that matches nothing.
  static std::string failure_notice(std::string_view key, std::string_view reason);
  /// What to send when operations have succeeded whose owner has patience: of one, its key. Keys
  /// that show patience hold no comma.
  static std::string success_notice(const std::vector<std::string>& keys);

  bool empty() const noexcept { return waiting_.empty(); }
  std::size_t size() const noexcept { return waiting_.size(); }
  std::uint64_t matched() const noexcept { return matched_; }
  std::uint64_t unknown() const noexcept { return unknown_; }

  template <typename Visit>
  void for_each(Visit visit) const {
    for (const auto& [key, operation] : waiting_) visit(operation);
  }

 private:
  std::shared_ptr<ConnectionState> take_one(std::string_view key);

  std::unordered_map<std::string, std::shared_ptr<ConnectionState>> waiting_;
  std::uint64_t matched_ = 0;
  std::uint64_t unknown_ = 0;
};

NIXL_CONNECT_NAMESPACE_END
