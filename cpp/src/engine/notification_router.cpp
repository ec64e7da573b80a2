#include "engine/notification_router.h"

#include <algorithm>

#include "engine/connection_state.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

constexpr std::string_view kFailurePrefix = "nixl_connect/failed/";
constexpr std::string_view kSuccessPrefix = "nixl_connect/ended/";
constexpr char kSeparator = ',';

}  // namespace

void NotificationRouter::add(std::shared_ptr<ConnectionState> operation) {
  std::string key = operation->key;
  waiting_.emplace(std::move(key), std::move(operation));
}

void NotificationRouter::remove(const ConnectionState& operation) { waiting_.erase(operation.key); }

std::vector<NotificationRouter::Match> NotificationRouter::take(std::string_view message) {
  std::vector<Match> matches;
  const auto match = [&](std::string_view key, bool failed, std::string_view reason) {
    if (auto operation = take_one(key)) {
      matches.push_back({std::move(operation), failed, std::string(reason)});
    }
  };
  if (message.starts_with(kSuccessPrefix)) {
    std::string_view keys = message.substr(kSuccessPrefix.size());
    while (!keys.empty()) {
      const std::size_t comma = std::min(keys.find(kSeparator), keys.size());
      match(keys.substr(0, comma), false, {});
      keys.remove_prefix(std::min(comma + 1, keys.size()));
    }
    return matches;
  }
  if (message.starts_with(kFailurePrefix)) {
    const std::string_view rest = message.substr(kFailurePrefix.size());
    if (const std::size_t slash = rest.find('/'); slash != rest.npos) {
      match(rest.substr(slash + 1), true, rest.substr(0, slash));
      return matches;
    }
  }
  match(message, false, {});
  return matches;
}

std::shared_ptr<ConnectionState> NotificationRouter::take_one(std::string_view key) {
  auto it = waiting_.find(std::string(key));
  // The caller may have added to the key, after a point, as a signature does.
  if (it == waiting_.end()) it = waiting_.find(std::string(key.substr(0, key.find('.'))));
  if (it == waiting_.end()) {
    ++unknown_;
    return nullptr;
  }
  ++matched_;
  auto operation = std::move(it->second);
  waiting_.erase(it);
  return operation;
}

std::string NotificationRouter::failure_notice(std::string_view key, std::string_view reason) {
  return std::string(kFailurePrefix).append(reason).append("/").append(key);
}

std::string NotificationRouter::success_notice(const std::vector<std::string>& keys) {
  if (keys.size() == 1) return keys.front();
  std::string notice(kSuccessPrefix);
  for (const std::string& key : keys) {
    if (&key != &keys.front()) notice += kSeparator;
    notice += key;
  }
  return notice;
}

NIXL_CONNECT_NAMESPACE_END
