#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// A new key, of which nobody can guess another: 128 random bits, in hexadecimal. With many
/// operations about, `~` and the owner's patience in microseconds follow: for so long its peer may
/// hold the news of the end back, to send it together with that of others.
///
/// Thread safe, also after a `fork`.
std::string make_notification_key(std::chrono::microseconds patience);

/// What the key says, up to `kMostPatience`; zero for keys of other makers. What was appended to a
/// key after a point, as a signature is, does not matter.
std::chrono::microseconds patience_of(std::string_view key);

inline constexpr std::chrono::microseconds kMostPatience{1000};

NIXL_CONNECT_NAMESPACE_END
