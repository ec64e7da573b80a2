#include "nixl_connect/metadata.h"

#include <zlib.h>

#include <array>
#include <cstddef>
#include <memory>
#include <new>

#include "nixl_connect/error.h"
#include "wire/hex.h"
#include "wire/inflate.h"
#include "wire/metadata_encoder.h"
#include "wire/metadata_text.h"
#include "wire/stored_block.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

constexpr std::string_view kBase64Prefix = "b64:";
constexpr std::string_view kBase64 =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::string_view kHex = "0123456789abcdef";
constexpr std::uint8_t kNoDigit = 0xff;

/// Peers read any level. Level 1 takes a third of the default's time for nearly its size.
constexpr int kCompressionLevel = 1;

constexpr std::array<std::uint8_t, 256> reverse(std::string_view digits) {
  std::array<std::uint8_t, 256> values{};
  values.fill(kNoDigit);
  for (std::size_t i = 0; i < digits.size(); ++i) {
    values[static_cast<unsigned char>(digits[i])] = static_cast<std::uint8_t>(i);
  }
  return values;
}

constexpr auto kBase64Values = reverse(kBase64);
constexpr auto kHexValues = [] {
  auto values = reverse(kHex);
  for (char c = 'A'; c <= 'F'; ++c) {
    values[static_cast<unsigned char>(c)] = static_cast<std::uint8_t>(c - 'A' + 10);
  }
  return values;
}();

[[noreturn]] void reject(const std::string& what) {
  throw Error(ErrorCode::rejected_metadata, "nixl_metadata: " + what);
}

void append_base64(std::string& text, std::string_view bytes) {
  const std::size_t before = text.size();
  text.resize(before + (bytes.size() + 2) / 3 * 4, '=');
  char* out = text.data() + before;
  const auto byte = [&](std::size_t i) -> std::uint32_t {
    return static_cast<unsigned char>(bytes[i]);
  };
  const auto write = [&](std::uint32_t group, int digits) {
    for (int k = 0; k < digits; ++k) *out++ = kBase64[group >> (18 - 6 * k) & 63];
  };
  std::size_t i = 0;
  for (; i + 3 <= bytes.size(); i += 3) write(byte(i) << 16 | byte(i + 1) << 8 | byte(i + 2), 4);
  if (bytes.size() - i == 1) write(byte(i) << 16, 2);
  if (bytes.size() - i == 2) write(byte(i) << 16 | byte(i + 1) << 8, 3);
}

std::string to_base64(std::string_view bytes) {
  std::string text(kBase64Prefix);
  append_base64(text, bytes);
  return text;
}

std::string deflate_all(std::string_view blob) {
  uLongf size = compressBound(static_cast<uLong>(blob.size()));
  std::string compressed(size, '\0');
  if (compress2(reinterpret_cast<Bytef*>(compressed.data()), &size,
                reinterpret_cast<const Bytef*>(blob.data()), static_cast<uLong>(blob.size()),
                kCompressionLevel) != Z_OK) {
    throw std::bad_alloc();
  }
  compressed.resize(size);
  return compressed;
}

std::string from_base64(std::string_view text) {
  if (text.size() % 4 != 0) reject("not base64: its length is no multiple of 4");
  std::size_t padding = 0;
  while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') ++padding;
  const std::string_view digits = text.substr(0, text.size() - padding);

  std::string bytes(digits.size() * 3 / 4, '\0');
  char* out = bytes.data();
  const auto value_at = [&](std::size_t i) -> std::uint32_t {
    return kBase64Values[static_cast<unsigned char>(digits[i])];
  };
  std::uint32_t seen = 0;
  std::size_t i = 0;
  for (; i + 4 <= digits.size(); i += 4) {
    const std::uint32_t a = value_at(i), b = value_at(i + 1), c = value_at(i + 2),
                        d = value_at(i + 3);
    seen |= a | b | c | d;
    const std::uint32_t group = a << 18 | b << 12 | c << 6 | d;
    *out++ = static_cast<char>(group >> 16 & 0xff);
    *out++ = static_cast<char>(group >> 8 & 0xff);
    *out++ = static_cast<char>(group & 0xff);
  }
  std::uint32_t group = 0;
  unsigned bits = 0;
  for (; i < digits.size(); ++i) {
    seen |= value_at(i);
    group = group << 6 | (value_at(i) & 63);
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    *out++ = static_cast<char>(group >> bits & 0xff);
  }
  // Digits are less than 64.
  if ((seen & ~63u) != 0) reject("not base64");
  if ((group & ((1u << bits) - 1)) != 0) reject("not base64: stray bits at its end");
  return bytes;
}

std::string from_hex(std::string_view text) {
  if (text.size() % 2 != 0) reject("neither 'b64:' nor hexadecimal: odd length");
  std::string bytes;
  bytes.reserve(text.size() / 2);
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const std::uint8_t high = kHexValues[static_cast<unsigned char>(text[i])];
    const std::uint8_t low = kHexValues[static_cast<unsigned char>(text[i + 1])];
    if (high == kNoDigit || low == kNoDigit) reject("neither 'b64:' nor hexadecimal");
    bytes += static_cast<char>(high << 4 | low);
  }
  return bytes;
}

}  // namespace

std::string encode_nixl_metadata(std::string_view blob, MetadataEncoding encoding) {
  return text_of(deflate_all(blob), encoding);
}

MetadataEncoder::MetadataEncoder(std::string_view prefix)
    : prefix_(prefix), checksum_(checksum_of(prefix)) {
  z_stream stream{};
  if (deflateInit(&stream, Z_BEST_COMPRESSION) != Z_OK) throw std::bad_alloc();
  const std::unique_ptr<z_stream, int (*)(z_stream*)> owner(&stream, &deflateEnd);
  compressed_.resize(compressBound(static_cast<uLong>(prefix.size())) + 16);
  stream.next_in = reinterpret_cast<Bytef*>(prefix_.data());
  stream.avail_in = static_cast<uInt>(prefix.size());
  stream.next_out = reinterpret_cast<Bytef*>(compressed_.data());
  stream.avail_out = static_cast<uInt>(compressed_.size());
  // Ends at a byte's end; what follows refers to nothing before it.
  deflate(&stream, Z_FULL_FLUSH);
  compressed_.resize(compressed_.size() - stream.avail_out);
  // What is encoded after it begins at a digit's beginning.
  while (compressed_.size() % 3 != 0) append_stored(compressed_, {}, false);
  text_ = to_base64(compressed_);
}

std::optional<StoredEnd> MetadataEncoder::parts(std::string_view blob) const {
  constexpr std::size_t kFewBytes = 1024;
  const std::string_view rest = blob.substr(std::min(prefix_.size(), blob.size()));
  if (!blob.starts_with(prefix_) || rest.size() > kFewBytes) return std::nullopt;
  const std::uint32_t sum = checksum_of(rest, checksum_);
  const auto byte = [&](int shift) { return static_cast<char>(sum >> shift & 0xff); };
  return StoredEnd{compressed_, rest, {byte(24), byte(16), byte(8), byte(0)}};
}

std::string MetadataEncoder::stream(std::string_view blob) const {
  const auto stored = parts(blob);
  return stored ? stored->stream() : deflate_all(blob);
}

std::string MetadataEncoder::encode(std::string_view blob) const {
  auto rest = parts(blob);
  if (!rest) return encode_nixl_metadata(blob, MetadataEncoding::base64);
  rest->beginning = {};
  const std::string end = rest->stream();
  std::string text;
  text.reserve(text_.size() + (end.size() + 2) / 3 * 4);
  text = text_;
  append_base64(text, end);
  return text;
}

std::string stream_of(std::string_view text) {
  // No valid text is longer: hexadecimal digits of a blob that could not be compressed.
  const std::size_t longest = 2 * compressBound(static_cast<uLong>(kMaxBlobSize));
  if (text.size() > longest) {
    reject("expected at most " + std::to_string(longest) + " characters, got " +
           std::to_string(text.size()));
  }
  return text.starts_with(kBase64Prefix) ? from_base64(text.substr(kBase64Prefix.size()))
                                         : from_hex(text);
}

std::string text_of(std::string_view stream, MetadataEncoding encoding) {
  return encoding == MetadataEncoding::base64 ? to_base64(stream) : to_hex(stream);
}

std::string decode_nixl_metadata(std::string_view text) {
  if (text.empty()) reject("empty");
  return inflate_all(stream_of(text));
}

NIXL_CONNECT_NAMESPACE_END
