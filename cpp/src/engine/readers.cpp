#include "engine/readers.h"

#include <algorithm>
#include <cstddef>
#include <utility>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// How many that have ended are remembered at most.
constexpr std::size_t kMostEnded = 1024;

}  // namespace

bool Readers::was_granted(std::string_view claimant, std::uint64_t number, Clock::time_point now) {
  const auto is_it = [&](const Granted& each) {
    return each.number == number && each.claimant == claimant;
  };
  if (const auto it = std::find_if(granted.begin(), granted.end(), is_it); it != granted.end()) {
    it->heard = now;
    return true;
  }
  return std::any_of(ended.begin(), ended.end(), is_it);
}

bool Readers::take_grant(std::string_view claimant) {
  const auto it = std::find_if(granted.begin(), granted.end(),
                               [&](const Granted& each) { return each.claimant == claimant; });
  if (it == granted.end()) return false;
  if (ended.size() >= kMostEnded) ended.erase(ended.begin(), ended.begin() + kMostEnded / 2);
  ended.push_back(std::move(*it));
  granted.erase(it);
  return true;
}

NIXL_CONNECT_NAMESPACE_END
