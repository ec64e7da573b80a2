#include "wire/stored_block.h"

#include <cstdint>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

std::uint32_t byte_of(std::string_view bytes, std::size_t i) {
  return static_cast<unsigned char>(bytes[i]);
}

}  // namespace

void append_stored(std::string& stream, std::string_view bytes, bool last) {
  const auto size = static_cast<std::uint16_t>(bytes.size());
  const auto inverse = static_cast<std::uint16_t>(~size);
  stream += static_cast<char>(last ? 1 : 0);
  for (const std::uint16_t number : {size, inverse}) {
    stream += static_cast<char>(number & 0xff);
    stream += static_cast<char>(number >> 8);
  }
  stream += bytes;
}

std::optional<std::string_view> stored_at(std::string_view stream, std::size_t at) {
  if (stream.size() < at + kStoredHead + kChecksum || byte_of(stream, at) != 1) return std::nullopt;
  const std::uint32_t size = byte_of(stream, at + 1) | byte_of(stream, at + 2) << 8;
  const std::uint32_t inverse = byte_of(stream, at + 3) | byte_of(stream, at + 4) << 8;
  if ((size ^ inverse) != 0xffff || at + kStoredHead + size + kChecksum != stream.size()) {
    return std::nullopt;
  }
  return stream.substr(at + kStoredHead, size);
}

std::optional<std::size_t> last_stored(std::string_view stream) {
  constexpr std::size_t kLongest = 1024;
  if (stream.size() < kStoredHead + kChecksum) return std::nullopt;
  const std::size_t end = stream.size() - kStoredHead - kChecksum;
  for (std::size_t size = 0; size <= kLongest && size <= end; ++size) {
    if (stored_at(stream, end - size)) return end - size;
  }
  return std::nullopt;
}

NIXL_CONNECT_NAMESPACE_END
