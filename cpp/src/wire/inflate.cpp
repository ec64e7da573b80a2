#include "wire/inflate.h"

#include <zlib.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <utility>

#include "nixl_connect/error.h"
#include "nixl_connect/metadata.h"
#include "wire/stored_block.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

[[noreturn]] void reject_stream(const std::string& what) {
  throw Error(ErrorCode::rejected_metadata, "nixl_metadata: " + what);
}

/// Memory for zlib's state, which is allocated and freed for each message: on the stack, if it
/// fits.
class InflateMemory {
 public:
  static voidpf allocate(voidpf memory, uInt items, uInt size) {
    auto& self = *static_cast<InflateMemory*>(memory);
    const std::size_t wanted = (std::size_t{items} * size + kAlignment - 1) & ~(kAlignment - 1);
    if (wanted > self.room_.size() - self.used_) return std::malloc(wanted);
    return self.room_.data() + std::exchange(self.used_, self.used_ + wanted);
  }
  static void release(voidpf memory, voidpf address) {
    auto& self = *static_cast<InflateMemory*>(memory);
    const auto begin = reinterpret_cast<std::uintptr_t>(self.room_.data());
    if (reinterpret_cast<std::uintptr_t>(address) - begin >= self.room_.size()) std::free(address);
  }

 private:
  static constexpr std::size_t kAlignment = alignof(std::max_align_t);

  alignas(kAlignment) std::array<char, 16 << 10> room_;
  std::size_t used_ = 0;
};

std::string inflate(std::string_view compressed) {
  InflateMemory memory;
  z_stream stream{};
  stream.zalloc = &InflateMemory::allocate;
  stream.zfree = &InflateMemory::release;
  stream.opaque = &memory;
  if (inflateInit(&stream) != Z_OK) throw std::bad_alloc();
  const std::unique_ptr<z_stream, int (*)(z_stream*)> owner(&stream, &inflateEnd);
  // zlib's interface is older than const.
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(compressed.data()));
  stream.avail_in = static_cast<uInt>(compressed.size());

  std::string bytes;
  std::size_t capacity = std::max<std::size_t>(1024, compressed.size() * 2);
  while (true) {
    const std::size_t size = bytes.size();
    capacity = std::min(capacity, kMaxBlobSize + 1);
    bytes.resize(capacity);
    stream.next_out = reinterpret_cast<Bytef*>(bytes.data() + size);
    stream.avail_out = static_cast<uInt>(capacity - size);
    // As if this were all: then what has been written is not copied for what may follow.
    const int result = ::inflate(&stream, Z_FINISH);
    bytes.resize(capacity - stream.avail_out);
    if (result == Z_STREAM_END) break;
    if (bytes.size() > kMaxBlobSize) {
      reject_stream("decompresses to more than " + std::to_string(kMaxBlobSize) + " bytes");
    }
    if (result != Z_OK && result != Z_BUF_ERROR) reject_stream("not a zlib stream");
    if (stream.avail_out != 0) reject_stream("truncated zlib stream");
    capacity *= 4;
  }
  if (bytes.size() > kMaxBlobSize) {
    reject_stream("decompresses to more than " + std::to_string(kMaxBlobSize) + " bytes");
  }
  if (stream.avail_in != 0) reject_stream("bytes after the end of its zlib stream");
  return bytes;
}

std::uint32_t checksum_in(std::string_view stream) {
  std::uint32_t sum = 0;
  for (std::size_t i = stream.size() - kChecksum; i < stream.size(); ++i) {
    sum = sum << 8 | static_cast<unsigned char>(stream[i]);
  }
  return sum;
}

/// What streams have begun with, and what it becomes.
class KnownPrefixes {
 public:
  std::optional<std::string> inflate_rest(std::string_view stream) const {
    for (const Known& one : known_) {
      if (one.compressed.empty() || !stream.starts_with(one.compressed)) continue;
      const auto rest = stored_at(stream, one.compressed.size());
      // What only looks like a block's beginning has another sum.
      if (rest && checksum_of(*rest, one.checksum) == checksum_in(stream)) {
        std::string bytes;
        bytes.reserve(one.bytes.size() + rest->size());
        return bytes.append(one.bytes).append(*rest);
      }
    }
    return std::nullopt;
  }

  void remember(std::string_view stream, std::string_view bytes) {
    const auto parts = StoredEnd::of(stream);
    if (!parts || parts->beginning.empty() || parts->beginning.size() > kLongestPrefix) return;
    if (!bytes.ends_with(parts->stored) || bytes.size() - parts->stored.size() > kLongestPrefix) {
      return;
    }
    bytes.remove_suffix(parts->stored.size());
    known_[next_++ % known_.size()] = {std::string(parts->beginning), std::string(bytes),
                                       checksum_of(bytes)};
  }

 private:
  static constexpr std::size_t kLongestPrefix = 4096;
  struct Known {
    std::string compressed;
    std::string bytes;
    std::uint32_t checksum = 0;
  };

  std::array<Known, 8> known_;
  std::size_t next_ = 0;
};

}  // namespace

std::string inflate_all(std::string_view stream) {
  thread_local KnownPrefixes prefixes;
  if (auto bytes = prefixes.inflate_rest(stream)) return *std::move(bytes);
  std::string bytes = inflate(stream);
  prefixes.remember(stream, bytes);
  return bytes;
}

NIXL_CONNECT_NAMESPACE_END
