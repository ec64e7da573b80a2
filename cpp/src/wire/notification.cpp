#include "wire/notification.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "system/process.h"
#include "system/random.h"
#include "wire/hex.h"
#include "wire/offer_location.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

constexpr std::size_t kBytes = 16;
constexpr char kDelayMark = '~';
constexpr std::string_view kPrefix = "nixl_connect/";
constexpr std::string_view kFailurePrefix = "nixl_connect/failed/";
constexpr std::string_view kSuccessPrefix = "nixl_connect/ended/";
constexpr std::string_view kClaimPrefix = "nixl_connect/claim/";
constexpr std::string_view kAnswerPrefix = "nixl_connect/answer/";
constexpr std::string_view kAlivePrefix = "nixl_connect/alive/";
constexpr std::string_view kGranted = "granted";
constexpr std::string_view kClosed = "closed";
constexpr std::string_view kUnmapped = "unmapped";
constexpr char kSeparator = ',';
constexpr char kNumberEnd = ':';
constexpr char kListEnd = '\n';

/// Thread safe, at the cost of a system call for every so many keys.
void append_random_digits(std::string& text) {
  constexpr std::size_t kKeys = 16;
  thread_local std::array<char, kBytes * kKeys> pool;
  thread_local std::size_t used = pool.size();
  thread_local pid_t filled_by = 0;
  // A forked child must not hand out its parent's keys.
  if (used == pool.size() || filled_by != this_process()) {
    fill_random(pool.data(), pool.size());
    used = 0;
    filled_by = this_process();
  }
  append_hex(text, {pool.data() + used, kBytes});
  used += kBytes;
}

}  // namespace

std::string make_notification_key(std::chrono::microseconds notice_delay) {
  std::string key;
  // With the delay and an `OfferLocation`.
  key.reserve(2 * kBytes + 8 + OfferLocation::kMostCharacters);
  append_random_digits(key);
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
  const bool is_whole = end == rest.data() + rest.size() || *end == '.' || *end == '@';
  if (error != std::errc{} || !is_whole) return {};
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

std::string claim_message(const std::vector<std::pair<std::uint64_t, std::string>>& claims,
                          std::string_view connection_information) {
  std::string message(kClaimPrefix);
  for (const auto& [number, key] : claims) {
    message.append(std::to_string(number)).append(1, kNumberEnd).append(key).append(1, kSeparator);
  }
  message.back() = kListEnd;
  return message.append(connection_information);
}

std::string answer_message(const ClaimAnswers& answers) {
  std::string message(kAnswerPrefix);
  for (const auto& [number, answer] : answers) {
    message.append(std::to_string(number)).append(1, kNumberEnd);
    message.append(answer == ClaimAnswer::granted  ? kGranted
                   : answer == ClaimAnswer::closed ? kClosed
                                                   : kUnmapped);
    message.append(1, kSeparator);
  }
  message.pop_back();
  return message;
}

std::string alive_message(const std::vector<std::uint64_t>& numbers) {
  std::string message(kAlivePrefix);
  for (const std::uint64_t number : numbers) {
    message.append(std::to_string(number)).append(1, kSeparator);
  }
  message.pop_back();
  return message;
}

namespace {

template <typename Visit>
void for_each_of(std::string_view list, Visit visit) {
  while (!list.empty()) {
    const std::size_t end = std::min(list.find(kSeparator), list.size());
    visit(list.substr(0, end));
    list.remove_prefix(std::min(end + 1, list.size()));
  }
}

/// The number that an entry begins with, and what follows.
std::pair<std::uint64_t, std::string_view> numbered(std::string_view entry) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(entry.data(), entry.data() + entry.size(), number);
  static_cast<void>(error);
  const std::string_view rest = entry.substr(static_cast<std::size_t>(end - entry.data()));
  return {number, rest.substr(std::min<std::size_t>(1, rest.size()))};
}

}  // namespace

Notice Notice::read(std::string_view message) {
  Notice notice;
  const auto is = [&](std::string_view prefix, Kind such) {
    if (!message.starts_with(prefix)) return false;
    notice.kind = such;
    message.remove_prefix(prefix.size());
    return true;
  };
  // Most are one key.
  if (!message.starts_with(kPrefix)) {
    notice.keys.push_back(message);
    return notice;
  }
  if (is(kSuccessPrefix, Kind::ended)) {
    for_each_of(message, [&](std::string_view key) { notice.keys.push_back(key); });
  } else if (is(kClaimPrefix, Kind::claim)) {
    const std::size_t end = std::min(message.find(kListEnd), message.size());
    notice.connection_information = message.substr(std::min(end + 1, message.size()));
    for_each_of(message.substr(0, end), [&](std::string_view entry) {
      const auto [number, key] = numbered(entry);
      notice.claims.push_back({number, key});
    });
  } else if (is(kAnswerPrefix, Kind::answer)) {
    for_each_of(message, [&](std::string_view entry) {
      const auto [number, word] = numbered(entry);
      notice.answers.emplace_back(number, word == kGranted    ? ClaimAnswer::granted
                                          : word == kUnmapped ? ClaimAnswer::unmapped
                                                              : ClaimAnswer::closed);
    });
  } else if (is(kAlivePrefix, Kind::alive)) {
    for_each_of(message,
                [&](std::string_view entry) { notice.numbers.push_back(numbered(entry).first); });
  } else if (const auto slash = message.find('/', kFailurePrefix.size());
             slash != message.npos && is(kFailurePrefix, Kind::failed)) {
    notice.reason = message.substr(0, slash - kFailurePrefix.size());
    notice.keys.push_back(message.substr(notice.reason.size() + 1));
  } else {
    notice.keys.push_back(message);
  }
  return notice;
}

NIXL_CONNECT_NAMESPACE_END
