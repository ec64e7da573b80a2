#pragma once

#include <algorithm>
#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// The longest time for which an owner lets notices wait.
inline constexpr std::chrono::microseconds kLongestNoticeDelay{1000};

/// A new key, of which nobody can guess another: 128 random bits, in hexadecimal. With many
/// operations about, `~` and a number of microseconds follow: for so long the peer may hold the
/// notice of a completion back, to send it together with that of others.
///
/// Thread safe, also after a `fork`.
std::string make_notification_key(std::chrono::microseconds notice_delay);

/// What the key says, up to `kLongestNoticeDelay`; zero for keys of other makers. What was appended
/// to a key after a point, as a signature is, does not matter.
std::chrono::microseconds notice_delay_of(std::string_view key);

/// The key without what was appended to it.
inline std::string_view bare_key(std::string_view key) { return key.substr(0, key.find('.')); }

/// What to send when operations have completed whose owner allows a delay: of one, its key. Keys
/// that allow a delay hold no comma.
std::string success_notice(const std::vector<std::string>& keys);
/// What to send when an operation has not completed. Peers that don't know it take it for a key
/// that matches nothing.
std::string failure_notice(std::string_view key, std::string_view reason);

/// A notification, read.
struct Notice {
  /// The operations that it is about.
  std::vector<std::string_view> keys;
  /// Whether they have failed, and the peer's word for why.
  bool failed = false;
  std::string_view reason;

  /// Anything is a notice: what has none of the forms above is a key. The views are of `message`.
  static Notice read(std::string_view message);
};

NIXL_CONNECT_NAMESPACE_END
