#include "notification_router.h"

#include "connection_state.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

constexpr std::string_view kFailurePrefix = "nixl_connect/failed/";

}  // namespace

void NotificationRouter::add(std::shared_ptr<ConnectionState> operation) {
  std::string key = operation->key;
  waiting_.emplace(std::move(key), std::move(operation));
}

void NotificationRouter::remove(const ConnectionState& operation) { waiting_.erase(operation.key); }

NotificationRouter::Match NotificationRouter::take(std::string_view message) {
  Match match;
  std::string_view key = message;
  if (message.starts_with(kFailurePrefix)) {
    const std::string_view rest = message.substr(kFailurePrefix.size());
    const std::size_t slash = rest.find('/');
    if (slash != rest.npos) {
      match.failed = true;
      match.reason = rest.substr(0, slash);
      key = rest.substr(slash + 1);
    }
  }
  auto it = waiting_.find(std::string(key));
  // The caller may have added to the key, after a point, as a signature does.
  if (it == waiting_.end()) it = waiting_.find(std::string(key.substr(0, key.find('.'))));
  if (it == waiting_.end()) {
    ++unknown_;
    return match;
  }
  ++matched_;
  match.operation = std::move(it->second);
  waiting_.erase(it);
  return match;
}

std::string NotificationRouter::failure_notice(std::string_view key, std::string_view reason) {
  return std::string(kFailurePrefix).append(reason).append("/").append(key);
}

NIXL_CONNECT_NAMESPACE_END
