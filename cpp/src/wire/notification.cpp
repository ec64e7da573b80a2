#include "wire/notification.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "system/process.h"
#include "wire/hex.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

constexpr std::size_t kBytes = 16;
constexpr char kDelayMark = '~';
constexpr std::string_view kFailurePrefix = "nixl_connect/failed/";
constexpr std::string_view kSuccessPrefix = "nixl_connect/ended/";
constexpr char kSeparator = ',';

/// Thread safe, at the cost of a system call for every so many keys.
std::string random_digits() {
  constexpr std::size_t kKeys = 16;
  thread_local std::array<char, kBytes * kKeys> pool;
  thread_local std::size_t used = pool.size();
  thread_local pid_t filled_by = 0;
  // A forked child must not hand out its parent's keys.
  if (used == pool.size() || filled_by != this_process()) {
    std::size_t filled = 0;
    while (filled < pool.size()) {
      const ssize_t n = ::getrandom(pool.data() + filled, pool.size() - filled, 0);
      if (n > 0) filled += static_cast<std::size_t>(n);
    }
    used = 0;
    filled_by = this_process();
  }
  const std::string digits = to_hex({pool.data() + used, kBytes});
  used += kBytes;
  return digits;
}

}  // namespace

std::string make_notification_key(std::chrono::microseconds notice_delay) {
  std::string key = random_digits();
  if (notice_delay.count() > 0) {
    key.append(1, kDelayMark).append(std::to_string(notice_delay.count()));
  }
  return key;
}

std::chrono::microseconds notice_delay_of(std::string_view key) {
  constexpr std::size_t kDigits = 2 * kBytes;
  if (key.size() <= kDigits || key[kDigits] != kDelayMark ||
      key.find_first_not_of("0123456789abcdef") != kDigits) {
    return {};
  }
  const std::string_view rest = key.substr(kDigits + 1);
  std::uint32_t count = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), count);
  if (error != std::errc{} || (end != rest.data() + rest.size() && *end != '.')) return {};
  return std::min(std::chrono::microseconds(count), kLongestNoticeDelay);
}

std::string success_notice(const std::vector<std::string>& keys) {
  if (keys.size() == 1) return keys.front();
  std::string notice(kSuccessPrefix);
  for (const std::string& key : keys) {
    if (&key != &keys.front()) notice += kSeparator;
    notice += key;
  }
  return notice;
}

std::string failure_notice(std::string_view key, std::string_view reason) {
  return std::string(kFailurePrefix).append(reason).append("/").append(key);
}

Notice Notice::read(std::string_view message) {
  Notice notice;
  if (message.starts_with(kSuccessPrefix)) {
    std::string_view keys = message.substr(kSuccessPrefix.size());
    while (!keys.empty()) {
      const std::size_t comma = std::min(keys.find(kSeparator), keys.size());
      notice.keys.push_back(keys.substr(0, comma));
      keys.remove_prefix(std::min(comma + 1, keys.size()));
    }
    return notice;
  }
  if (message.starts_with(kFailurePrefix)) {
    const std::string_view rest = message.substr(kFailurePrefix.size());
    if (const std::size_t slash = rest.find('/'); slash != rest.npos) {
      notice.failed = true;
      notice.reason = rest.substr(0, slash);
      notice.keys.push_back(rest.substr(slash + 1));
      return notice;
    }
  }
  notice.keys.push_back(message);
  return notice;
}

NIXL_CONNECT_NAMESPACE_END
