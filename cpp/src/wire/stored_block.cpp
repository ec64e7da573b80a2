#include "wire/stored_block.h"

#include <zlib.h>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

std::uint32_t byte_of(std::string_view bytes, std::size_t i) {
  return static_cast<unsigned char>(bytes[i]);
}

}  // namespace

std::uint32_t checksum_of(std::string_view bytes, std::uint32_t before) {
  return static_cast<std::uint32_t>(adler32(before, reinterpret_cast<const Bytef*>(bytes.data()),
                                            static_cast<uInt>(bytes.size())));
}

void append_stored(std::string& stream, std::string_view bytes, bool last) {
  append_stored_head(stream, bytes.size(), last);
  stream += bytes;
}

void append_stored_head(std::string& stream, std::size_t size, bool last) {
  const auto number = static_cast<std::uint16_t>(size);
  const auto inverse = static_cast<std::uint16_t>(~number);
  const auto low = [](std::uint16_t of) { return static_cast<char>(of & 0xff); };
  const auto high = [](std::uint16_t of) { return static_cast<char>(of >> 8); };
  const char head[kStoredHead] = {static_cast<char>(last ? 1 : 0), low(number), high(number),
                                  low(inverse), high(inverse)};
  stream.append(head, sizeof head);
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

std::optional<StoredEnd> StoredEnd::of(std::string_view stream) {
  constexpr std::size_t kLongest = 1024;
  if (stream.size() < kStoredHead + kChecksum) return std::nullopt;
  const std::size_t end = stream.size() - kStoredHead - kChecksum;
  for (std::size_t size = 0; size <= kLongest && size <= end; ++size) {
    if (const auto stored = stored_at(stream, end - size)) {
      StoredEnd parts{stream.substr(0, end - size), *stored, {}};
      stream.copy(parts.checksum.data(), kChecksum, stream.size() - kChecksum);
      return parts;
    }
  }
  return std::nullopt;
}

std::string StoredEnd::stream() const {
  std::string whole;
  whole.reserve(beginning.size() + kStoredHead + stored.size() + kChecksum);
  append_stored(whole.append(beginning), stored, true);
  return whole.append(checksum.data(), kChecksum);
}

NIXL_CONNECT_NAMESPACE_END
