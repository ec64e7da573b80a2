#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Where an offer's owner keeps what claims it: `@` and seven hexadecimal numbers at the end of the
/// notification key, which others take for a part of the key.
struct OfferLocation {
  /// What it takes in a key.
  static constexpr std::size_t kMostCharacters = 7 + 2 * (6 * 4 + 8);

  /// Of `process_space`: on which machine a process's number means that process.
  std::uint32_t space = 0;
  std::int32_t process = 0;
  /// What the process has its table open as, and the table's own number.
  std::int32_t file = 0;
  std::uint64_t table = 0;
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;
  /// For how many readers or writers the offer is; `kUnlimited` for any number.
  std::uint32_t places = 1;

  std::string appended_to(std::string key) const;
  /// Nothing for a key of another maker. What was appended to it after a point does not matter.
  static std::optional<OfferLocation> of_key(std::string_view key);
};

NIXL_CONNECT_NAMESPACE_END
