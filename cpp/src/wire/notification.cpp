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
constexpr char kPatienceMark = '~';

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

std::string make_notification_key(std::chrono::microseconds patience) {
  std::string key = random_digits();
  if (patience.count() > 0) key.append(1, kPatienceMark).append(std::to_string(patience.count()));
  return key;
}

std::chrono::microseconds patience_of(std::string_view key) {
  constexpr std::size_t kDigits = 2 * kBytes;
  if (key.size() <= kDigits || key[kDigits] != kPatienceMark ||
      key.find_first_not_of("0123456789abcdef") != kDigits) {
    return {};
  }
  const std::string_view rest = key.substr(kDigits + 1);
  std::uint32_t count = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), count);
  if (error != std::errc{} || (end != rest.data() + rest.size() && *end != '.')) return {};
  return std::min(std::chrono::microseconds(count), kMostPatience);
}

NIXL_CONNECT_NAMESPACE_END
