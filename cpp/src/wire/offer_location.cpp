#include "wire/offer_location.h"

#include <array>
#include <charconv>
#include <limits>
#include <type_traits>
#include <utility>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

constexpr char kMark = '@';
constexpr char kNumberSeparator = '-';
constexpr int kBase = 16;

template <typename Number>
bool read(std::string_view& text, Number& number) {
  using Unsigned = std::make_unsigned_t<Number>;
  Unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, kBase);
  if (error != std::errc{} || value > static_cast<Unsigned>(std::numeric_limits<Number>::max())) {
    return false;
  }
  number = static_cast<Number>(value);
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  if (!text.empty() && text.front() == kNumberSeparator) text.remove_prefix(1);
  return true;
}

}  // namespace

std::string OfferLocation::appended_to(std::string key) const {
  const auto number = [](auto value) { return static_cast<std::uint64_t>(value); };
  char mark = kMark;
  for (const std::uint64_t value : {number(space), number(process), number(file), table,
                                    number(slot), number(generation), number(places)}) {
    key += std::exchange(mark, kNumberSeparator);
    std::array<char, 16> digits;
    key.append(digits.data(),
               std::to_chars(digits.data(), digits.data() + digits.size(), value, kBase).ptr);
  }
  return key;
}

std::optional<OfferLocation> OfferLocation::of_key(std::string_view key) {
  key = key.substr(0, key.find('.'));
  const auto mark = key.rfind(kMark);
  if (mark == key.npos) return std::nullopt;
  std::string_view text = key.substr(mark + 1);
  OfferLocation found;
  const bool right = read(text, found.space) && read(text, found.process) &&
                     read(text, found.file) && read(text, found.table) && read(text, found.slot) &&
                     read(text, found.generation) && read(text, found.places) && text.empty();
  return right && found.places > 0 ? std::optional(found) : std::nullopt;
}

NIXL_CONNECT_NAMESPACE_END
