// Metadata as bytes. Numbers are LEB128, of at most 64 bits and as short as can be; a difference is
// modulo 2^64, and its sign the lowest bit (zigzag).
//
//   magic          0x93 'n' 'c', and the version, one byte
//   kind           one byte, of `OperationKind`
//   key            its length, and that many bytes of UTF-8
//   NIXL metadata  one byte of `Form`; then, but for regions, its length and that many bytes
//   descriptors    how many; then runs until there are so many
//
// A run is of pieces of one size on one device, at a constant stride:
//
//   head           the number of pieces << 3 | what of it follows
//   device         with 1: one byte of `DeviceKind` and, but for the host, the ordinal
//   address        of the first piece, less that of the piece before it, or 0
//   size           with 2
//   stride         with 4: a difference; of two pieces or more only
//
// What does not follow is as it was in the run before; at first the host, and 0.
//
// NIXL metadata as regions is a zlib stream whose last block stores what a NIXL blob says of memory
// of the host that has one remote key, which is some 150 bytes of NIXL's form for a region:
//
//   beginning      the stream up to that block: its length, and that many bytes
//   checksum       the last four bytes of the stream
//   backend, key   of each its length, and that many bytes
//   regions        as descriptors
#include "wire/bytes.h"

#include <algorithm>
#include <limits>

#include "nixl_connect/error.h"
#include "nixl_connect/metadata.h"
#include "wire/blob.h"
#include "wire/metadata_encoder.h"
#include "wire/metadata_text.h"
#include "wire/stored_block.h"
#include "wire/utf8.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

constexpr std::string_view kMagic = "\x93nc";
constexpr char kVersion = 1;
constexpr std::uint64_t kHasDevice = 1;
constexpr std::uint64_t kHasSize = 2;
constexpr std::uint64_t kHasStride = 4;
constexpr unsigned kHeadFlags = 3;

/// How the NIXL metadata travels.
enum class Form : std::uint8_t {
  base64 = 0,   ///< The zlib stream, which was in base64.
  hex = 1,      ///< The zlib stream, which was in hexadecimal.
  text = 2,     ///< The text itself, which is nobody's encoding of bytes.
  regions = 3,  ///< As `base64`, with regions for what the stream stores of them.
};

/// Of a run, and what the next one inherits.
struct Run {
  Device device{};
  std::uint64_t address = 0;
  std::uint64_t size = 0;
  std::uint64_t stride = 0;
};

class Writer {
 public:
  explicit Writer(std::size_t size) { bytes_.reserve(size); }
  void byte(std::uint8_t value) { bytes_ += static_cast<char>(value); }
  void number(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) byte(static_cast<std::uint8_t>(value | 0x80));
    byte(static_cast<std::uint8_t>(value));
  }
  void difference(std::uint64_t value) { number(value << 1 ^ (0 - (value >> 63))); }
  void raw(std::string_view bytes) { bytes_ += bytes; }
  void text(std::string_view bytes) {
    number(bytes.size());
    raw(bytes);
  }
  std::string bytes() && { return std::move(bytes_); }

 private:
  std::string bytes_;
};

/// How many of the descriptors from the first on are a run.
std::size_t run_length(const std::vector<RemoteDescriptor>& descriptors, std::size_t first) {
  const RemoteDescriptor& head = descriptors[first];
  const auto goes_on = [&](std::size_t i) {
    return i < descriptors.size() && descriptors[i].size == head.size &&
           descriptors[i].device == head.device;
  };
  if (!goes_on(first + 1)) return 1;
  const std::uint64_t stride = descriptors[first + 1].address - head.address;
  std::size_t end = first + 2;
  while (goes_on(end) && descriptors[end].address - descriptors[end - 1].address == stride) ++end;
  return end - first;
}

void write_descriptors(Writer& writer, const std::vector<RemoteDescriptor>& descriptors) {
  writer.number(descriptors.size());
  Run before;
  for (std::size_t first = 0; first < descriptors.size();) {
    const RemoteDescriptor& head = descriptors[first];
    const std::size_t count = run_length(descriptors, first);
    const std::uint64_t stride =
        count > 1 ? descriptors[first + 1].address - head.address : before.stride;
    const bool new_device = head.device != before.device;
    const bool new_size = head.size != before.size;
    const bool new_stride = stride != before.stride;
    writer.number(count << kHeadFlags | (new_device ? kHasDevice : 0) | (new_size ? kHasSize : 0) |
                  (new_stride ? kHasStride : 0));
    if (new_device) {
      writer.byte(static_cast<std::uint8_t>(head.device.kind));
      if (head.device.kind != DeviceKind::host) writer.number(head.device.id);
    }
    writer.difference(head.address - before.address);
    if (new_size) writer.number(head.size);
    if (new_stride) writer.difference(stride);
    first += count;
    before = {head.device, descriptors[first - 1].address, head.size, stride};
  }
}

/// Whether the stream could be, and is, written as regions.
bool write_regions(Writer& writer, const StoredEnd& stream) {
  const auto section = Blob::parse_memory_part(stream.stored);
  if (!section) return false;
  std::vector<RemoteDescriptor> descriptors;
  descriptors.reserve(section->elements.size());
  for (const Blob::Element& element : section->elements) {
    const Region& region = element.region;
    if (region.type != kDram || region.device != 0) return false;
    descriptors.push_back({region.address, region.size, {}});
  }
  writer.byte(static_cast<std::uint8_t>(Form::regions));
  writer.text(stream.beginning);
  writer.raw({stream.checksum.data(), stream.checksum.size()});
  writer.text(section->backend);
  writer.text(section->elements.front().remote_key);
  write_descriptors(writer, descriptors);
  return true;
}

void write_stream(Writer& writer, Form form, std::string_view stream) {
  writer.byte(static_cast<std::uint8_t>(form));
  writer.text(stream);
}

void write_nixl_metadata(Writer& writer, const std::string& text) {
  const auto encoding = text.starts_with("b64:") ? MetadataEncoding::base64 : MetadataEncoding::hex;
  try {
    const std::string stream = stream_of(text);
    // Digits may have been capitals.
    if (text_of(stream, encoding) == text) {
      const bool hex = encoding == MetadataEncoding::hex;
      const auto parts = hex ? std::nullopt : StoredEnd::of(stream);
      if (parts && write_regions(writer, *parts)) return;
      write_stream(writer, hex ? Form::hex : Form::base64, stream);
      return;
    }
  } catch (const Error&) {
    // Whoever begins with it says what is wrong.
  }
  write_stream(writer, Form::text, text);
}

class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  [[noreturn]] void reject(const std::string& what) const {
    throw Error(ErrorCode::rejected_metadata, "remote_metadata: not its bytes: " + what +
                                                  " at byte " + std::to_string(offset_) + " of " +
                                                  std::to_string(bytes_.size()));
  }

  void magic() {
    if (!bytes_.starts_with(kMagic)) {
      reject(bytes_.starts_with('{') ? "JSON, which metadata_from_json takes" : "no magic number");
    }
    offset_ = kMagic.size();
    if (const auto version = byte(); version != kVersion) {
      --offset_;
      reject("expected version " + std::to_string(kVersion) + ", got " + std::to_string(version));
    }
  }

  std::uint8_t byte() {
    if (offset_ == bytes_.size()) reject("unexpected end");
    return static_cast<std::uint8_t>(bytes_[offset_++]);
  }

  std::uint64_t number() {
    std::uint64_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
      const std::uint64_t next = byte();
      const std::uint64_t bits = next & 0x7f;
      if (shift == 63 && (bits > 1 || next > 0x7f)) reject("a number beyond 64 bits");
      value |= bits << shift;
      if (next < 0x80) {
        if (next == 0 && shift > 0) reject("a number that is longer than it need be");
        return value;
      }
    }
  }
  std::uint64_t difference() {
    const std::uint64_t value = number();
    return value >> 1 ^ (0 - (value & 1));
  }

  std::string_view text(const char* what) { return raw(what, number()); }
  std::string_view raw(const char* what, std::uint64_t size) {
    if (size > bytes_.size() - offset_) reject(std::string(what) + " that goes on beyond the end");
    const std::string_view value = bytes_.substr(offset_, size);
    offset_ += size;
    return value;
  }
  std::string utf8(const char* what) {
    const std::string_view value = text(what);
    if (!is_utf8(value)) reject(std::string(what) + " that is not UTF-8");
    return std::string(value);
  }

  void end() const {
    if (offset_ != bytes_.size()) reject("something after the end");
  }

 private:
  std::string_view bytes_;
  std::size_t offset_ = 0;
};

Device read_device(Reader& reader) {
  const auto kind = static_cast<DeviceKind>(reader.byte());
  if (kind == DeviceKind::host) return {};
  if (kind != DeviceKind::cuda && kind != DeviceKind::xpu) reader.reject("unknown device");
  const std::uint64_t id = reader.number();
  if (id > std::numeric_limits<std::uint32_t>::max()) reader.reject("impossible ordinal");
  return {kind, static_cast<std::uint32_t>(id)};
}

std::vector<RemoteDescriptor> read_descriptors(Reader& reader, std::size_t limit) {
  // A few bytes may name very many.
  const std::uint64_t total = reader.number();
  if (total > limit) {
    reader.reject("expected at most " + std::to_string(limit) + " descriptors, got " +
                  std::to_string(total));
  }
  constexpr std::uint64_t kFew = 16;
  std::vector<RemoteDescriptor> descriptors;
  descriptors.reserve(std::min(total, kFew));
  Run run;
  while (descriptors.size() < total) {
    const std::uint64_t head = reader.number();
    const std::uint64_t count = head >> kHeadFlags;
    if (count == 0) reader.reject("a run of no descriptors");
    if (count > total - descriptors.size()) reader.reject("more descriptors than announced");
    if ((head & kHasDevice) != 0) run.device = read_device(reader);
    run.address += reader.difference();
    if ((head & kHasSize) != 0) run.size = reader.number();
    if ((head & kHasStride) != 0) {
      if (count == 1) reader.reject("a stride of a single descriptor");
      run.stride = reader.difference();
    }
    for (std::uint64_t i = 0; i < count; ++i) {
      if (i > 0) run.address += run.stride;
      if (run.address + run.size < run.address) reader.reject("a region beyond all memory");
      descriptors.push_back({run.address, run.size, run.device});
    }
  }
  return descriptors;
}

/// A zlib stream of a blob, of which the regions came by themselves.
std::string read_regions(Reader& reader) {
  constexpr const char* kWhat = "NIXL metadata";
  const std::string_view beginning = reader.text(kWhat);
  const std::string_view checksum = reader.raw("a checksum", kChecksum);
  const std::string_view backend = reader.text("a backend");
  const std::string_view remote_key = reader.text("a remote key");
  const std::size_t element = Blob::kLeastElementSize + remote_key.size();
  const auto descriptors = read_descriptors(reader, kMostStored / element);
  if (descriptors.empty()) reader.reject("NIXL metadata of no region");
  std::vector<Region> regions;
  regions.reserve(descriptors.size());
  for (const RemoteDescriptor& d : descriptors) {
    if (d.device != Device{}) reader.reject("NIXL metadata of a device's memory");
    regions.push_back(Region::of(d.device, d.address, d.size));
  }
  const std::size_t size = Blob::memory_part_size(backend, regions.size(), remote_key);
  if (size > kMostStored) reader.reject("too many regions");
  std::string stream;
  stream.reserve(beginning.size() + kStoredHead + size + kChecksum);
  append_stored_head(stream.append(beginning), size, true);
  Blob::append_memory_part(stream, backend, regions, remote_key);
  return stream.append(checksum);
}

/// The text, or what it is of: then `stream`.
std::string read_nixl_metadata(Reader& reader, Form& form, std::string& stream) {
  constexpr const char* kWhat = "NIXL metadata";
  form = static_cast<Form>(reader.byte());
  switch (form) {
    case Form::base64:
    case Form::hex: stream = reader.text(kWhat); return {};
    case Form::text: return reader.utf8(kWhat);
    case Form::regions: stream = read_regions(reader); return {};
  }
  reader.reject("unknown form of NIXL metadata");
}

/// Writes all but the NIXL metadata, which `write` does in its place.
template <typename Write>
std::string write_all(OperationKind kind, std::string_view notification_key,
                      const std::vector<RemoteDescriptor>& descriptors, Write write) {
  if (descriptors.size() > kMaxDescriptors) {
    throw Error(ErrorCode::invalid_argument, "metadata.descriptors: expected at most " +
                                                 std::to_string(kMaxDescriptors) + ", got " +
                                                 std::to_string(descriptors.size()));
  }
  // What most take.
  constexpr std::size_t kRoom = 512;
  Writer writer(kRoom);
  writer.raw(kMagic);
  writer.byte(kVersion);
  writer.byte(static_cast<std::uint8_t>(kind));
  writer.text(notification_key);
  write(writer);
  write_descriptors(writer, descriptors);
  return std::move(writer).bytes();
}

RdmaMetadata read_all(std::string_view bytes, Form& form, std::string& stream) {
  Reader reader(bytes);
  reader.magic();
  RdmaMetadata metadata;
  const std::uint8_t kind = reader.byte();
  if (kind > static_cast<std::uint8_t>(OperationKind::write)) {
    reader.reject("unknown kind of operation");
  }
  metadata.operation_kind = static_cast<OperationKind>(kind);
  metadata.notification_key = reader.utf8("a notification key");
  metadata.nixl_metadata = read_nixl_metadata(reader, form, stream);
  metadata.descriptors = read_descriptors(reader, kMaxDescriptors);
  reader.end();
  return metadata;
}

}  // namespace

std::string to_bytes(const RdmaMetadata& metadata) {
  return write_all(metadata.operation_kind, metadata.notification_key, metadata.descriptors,
                   [&](Writer& writer) { write_nixl_metadata(writer, metadata.nixl_metadata); });
}

std::string to_bytes(OperationKind kind, std::string_view notification_key,
                     const std::vector<RemoteDescriptor>& descriptors,
                     const MetadataEncoder& encoder, std::string_view blob) {
  return write_all(kind, notification_key, descriptors, [&](Writer& writer) {
    const auto parts = encoder.parts(blob);
    if (parts && write_regions(writer, *parts)) return;
    write_stream(writer, Form::base64, encoder.stream(blob));
  });
}

RdmaMetadata metadata_from_bytes(std::string_view bytes) {
  Form form{};
  std::string stream;
  RdmaMetadata metadata = read_all(bytes, form, stream);
  if (form != Form::text) {
    const bool hex = form == Form::hex;
    metadata.nixl_metadata =
        text_of(stream, hex ? MetadataEncoding::hex : MetadataEncoding::base64);
  }
  return metadata;
}

RdmaMetadata metadata_from_bytes(std::string_view bytes, std::string& stream) {
  Form form{};
  return read_all(bytes, form, stream);
}

NIXL_CONNECT_NAMESPACE_END
