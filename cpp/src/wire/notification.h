#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
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

/// What an owner answers to a claim.
enum class ClaimAnswer : std::uint8_t {
  granted,
  closed,    ///< The offer is closed, or its places are taken.
  unmapped,  ///< Its memory has gone.
};

/// Asks the owner for places, where its table cannot be reached: each with a number of the asker's
/// own, by which the answer names it; and where to answer to, the asker's connection information.
struct ClaimRequest {
  std::uint64_t number = 0;
  std::string_view key;
};
std::string claim_message(const std::vector<std::pair<std::uint64_t, std::string>>& claims,
                          std::string_view connection_information);
/// The owner's answers, each by the asker's number.
using ClaimAnswers = std::vector<std::pair<std::uint64_t, ClaimAnswer>>;
std::string answer_message(const ClaimAnswers& answers);
/// Those that were granted, and whose transfers go on.
std::string alive_message(const std::vector<std::uint64_t>& numbers);

/// A notification, read. The views are of the message.
struct Notice {
  enum class Kind : std::uint8_t {
    ended,   ///< `keys` have been read or written.
    failed,  ///< The one of `keys` has not, for the reason.
    claim,   ///< `claims`, and where to answer to.
    answer,  ///< `answers`.
    alive,   ///< `numbers`.
  };
  Kind kind = Kind::ended;
  std::vector<std::string_view> keys;
  /// The peer's word.
  std::string_view reason;
  std::vector<ClaimRequest> claims;
  std::string_view connection_information;
  ClaimAnswers answers;
  std::vector<std::uint64_t> numbers;

  /// Anything is a notice: what has none of the other forms is a key.
  static Notice read(std::string_view message);
};

NIXL_CONNECT_NAMESPACE_END
