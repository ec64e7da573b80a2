#include "wire/blob.h"

#include <cstring>
#include <map>

#include "nixl_connect/error.h"
#include "nixl_connect/metadata.h"
#include "wire/utf8.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

constexpr std::string_view kBlobStart = "nixlSerDes|";
constexpr std::string_view kAgentTag = "Agent";
constexpr std::string_view kBackendTag = "bknd";
constexpr std::string_view kListTag = "nixlDList";
constexpr std::string_view kTypeTag = "t";
constexpr std::string_view kCountTag = "n";
constexpr std::string_view kListKind = "nixlSDList";
constexpr std::string_view kMemorySection = "MemSection";
constexpr std::string_view kSectionCount = "nixlSecElms";
constexpr std::size_t kElementHeader = 3 * sizeof(std::uint64_t);
/// The shortest field: no tag, no bytes.
constexpr std::size_t kFieldOverhead = sizeof(std::uint64_t) + 1;
constexpr std::size_t kSectionCountSize =
    kSectionCount.size() + kFieldOverhead + sizeof(std::uint64_t);

class BlobReader {
 public:
  explicit BlobReader(std::string_view bytes) : bytes_(bytes) {}

  std::size_t offset() const noexcept { return offset_; }
  std::size_t left() const noexcept { return bytes_.size() - offset_; }

  [[noreturn]] void reject(std::string_view what, std::string_view tag = {}) const {
    std::string message = "nixl_metadata: not NIXL's form: ";
    message.append(what);
    if (!tag.empty()) message.append(" '").append(tag).append("'");
    message.append(" at byte ").append(std::to_string(offset_));
    message.append(" of ").append(std::to_string(bytes_.size()));
    throw Error(ErrorCode::rejected_metadata, message);
  }

  void magic() {
    if (!bytes_.starts_with(kBlobStart)) reject("no 'nixlSerDes|'");
    offset_ = kBlobStart.size();
  }

  std::string_view field(std::string_view tag) {
    if (left() < tag.size() + kFieldOverhead) reject("truncated before", tag);
    if (bytes_.substr(offset_, tag.size()) != tag) reject("no field", tag);
    std::uint64_t size = 0;
    std::memcpy(&size, bytes_.data() + offset_ + tag.size(), sizeof size);
    if (size > left() - tag.size() - kFieldOverhead) reject("truncated in", tag);
    const std::size_t begin = offset_ + tag.size() + sizeof size;
    if (bytes_[begin + size] != '|') reject("no end of field", tag);
    offset_ = begin + size + 1;
    return bytes_.substr(begin, size);
  }

  std::string_view text(std::string_view tag) {
    const std::string_view value = field(tag);
    if (value.empty() || value.size() > kMaxNameSize || value.find('\0') != value.npos) {
      reject("unusable name in", tag);
    }
    return value;
  }

  template <typename Integer>
  Integer integer(std::string_view tag) {
    const std::string_view value = field(tag);
    Integer result{};
    if (value.size() != sizeof result) reject("wrong width of", tag);
    std::memcpy(&result, value.data(), sizeof result);
    return result;
  }

  /// A count of things that take `least` bytes each: what cannot fit is refused before any
  /// memory is set aside for it.
  std::size_t count(std::string_view tag, std::size_t least) {
    const auto value = integer<std::uint64_t>(tag);
    if (value > left() / least) reject("impossible count in", tag);
    return static_cast<std::size_t>(value);
  }

  void end() const {
    if (left() != 0) reject("bytes after the end");
  }

 private:
  std::string_view bytes_;
  std::size_t offset_ = 0;
};

/// Appends fields to what is there.
class BlobWriter {
 public:
  explicit BlobWriter(std::string& bytes) : bytes_(bytes) {}

  void field(std::string_view tag, std::string_view value, std::string_view more = {}) {
    const std::uint64_t size = value.size() + more.size();
    bytes_.append(tag).append(reinterpret_cast<const char*>(&size), sizeof size);
    bytes_.append(value).append(more).append(1, '|');
  }
  template <typename Integer>
  void integer(std::string_view tag, Integer value) {
    field(tag, {reinterpret_cast<const char*>(&value), sizeof value});
  }
  void section(std::string_view backend, MemoryType type, std::size_t elements) {
    field(kBackendTag, backend);
    field(kListTag, kListKind);
    integer(kTypeTag, static_cast<std::int32_t>(type));
    integer(kCountTag, std::uint64_t{elements});
  }
  void element(const Region& region, std::string_view remote_key) {
    const std::uint64_t header[3] = {region.address, region.size, region.device};
    field("", {reinterpret_cast<const char*>(header), sizeof header}, remote_key);
  }

 private:
  std::string& bytes_;
};

Blob::Element read_element(BlobReader& reader, MemoryType type) {
  const std::string_view bytes = reader.field("");
  if (bytes.size() < kElementHeader) reader.reject("element too short");
  std::uint64_t header[3];
  std::memcpy(header, bytes.data(), sizeof header);
  const auto [address, size, device] = header;
  if (address == 0 || size == 0 || address + size < address) reader.reject("impossible region");
  return {{type, device, address, size}, bytes.substr(kElementHeader)};
}

Blob::Section read_section(BlobReader& reader) {
  Blob::Section section;
  section.backend = reader.text(kBackendTag);
  if (reader.field(kListTag) != kListKind) reader.reject("unknown kind of list");
  const auto type = reader.integer<std::int32_t>(kTypeTag);
  // Storage memory is nothing that this library moves, but a peer may have some registered.
  if (type < 0 || type > 4) reader.reject("unknown memory type");
  static_assert(Blob::kLeastElementSize == kFieldOverhead + kElementHeader);
  const std::size_t elements = reader.count(kCountTag, Blob::kLeastElementSize);
  if (elements == 0) reader.reject("empty section");
  section.elements.reserve(elements);
  for (std::size_t i = 0; i < elements; ++i) {
    section.elements.push_back(read_element(reader, static_cast<MemoryType>(type)));
  }
  return section;
}

}  // namespace

Blob::Blob(std::string bytes) : bytes_(std::move(bytes)) {
  if (bytes_.size() > kMaxBlobSize) {
    throw Error(ErrorCode::rejected_metadata, "nixl_metadata: expected at most " +
                                                  std::to_string(kMaxBlobSize) + " bytes, got " +
                                                  std::to_string(bytes_.size()));
  }
  BlobReader reader(bytes_);
  reader.magic();
  agent_ = reader.text(kAgentTag);
  if (!is_utf8(agent_)) reader.reject("a name that is not UTF-8 in", kAgentTag);

  const std::size_t connections = reader.count("Conns", 2 * (1 + kFieldOverhead));
  connections_.reserve(connections);
  for (std::size_t i = 0; i < connections; ++i) {
    const std::string_view backend = reader.text("t");
    const std::string_view address = reader.field("c");
    if (address.empty()) reader.reject("empty address");
    connections_.push_back({backend, address});
  }

  if (reader.field("") != kMemorySection) reader.reject("no 'MemSection'");
  memory_offset_ = reader.offset();
  const std::size_t sections = reader.count(kSectionCount, 4 * kFieldOverhead);
  sections_.reserve(sections);
  for (std::size_t i = 0; i < sections; ++i) sections_.push_back(read_section(reader));
  reader.end();
}

std::shared_ptr<const Blob> Blob::parse(std::string bytes) {
  return std::shared_ptr<const Blob>(new Blob(std::move(bytes)));
}

std::string Blob::join(const Blob& connections, const std::vector<std::string>& regions) {
  std::string joined;
  std::uint64_t sections = 0;
  for (const std::string& some : regions) {
    const Blob part(some);
    if (connections.agent_ != part.agent_) {
      throw Error(ErrorCode::rejected_metadata, "nixl_metadata: parts of two agents");
    }
    if (joined.empty()) {
      joined.reserve(connections.memory_offset_ + some.size() - part.memory_offset_);
      joined.append(connections.head());
      joined.append(some, part.memory_offset_, kSectionCountSize);
    }
    joined.append(some, part.memory_offset_ + kSectionCountSize);
    sections += part.sections_.size();
  }
  const std::size_t count = connections.memory_offset_ + kSectionCountSize - 1 - sizeof sections;
  std::memcpy(joined.data() + count, &sections, sizeof sections);
  return joined;
}

std::string Blob::make(std::string_view agent, std::string_view backend, std::string_view address,
                       const std::vector<Element>& elements) {
  std::map<MemoryType, std::vector<const Element*>> by_type;
  for (const Element& element : elements) by_type[element.region.type].push_back(&element);

  std::string bytes(kBlobStart);
  BlobWriter writer(bytes);
  writer.field(kAgentTag, agent);
  writer.integer("Conns", std::uint64_t{1});
  writer.field("t", backend);
  writer.field("c", address);
  writer.field("", kMemorySection);
  writer.integer(kSectionCount, std::uint64_t{by_type.size()});
  for (const auto& [type, members] : by_type) {
    writer.section(backend, type, members.size());
    for (const Element* element : members) writer.element(element->region, element->remote_key);
  }
  return bytes;
}

std::string Blob::join(const Blob& connections, std::string_view backend,
                       const std::vector<Region>& regions, std::string_view remote_key) {
  const std::string_view head = connections.head();
  std::string joined;
  joined.reserve(head.size() + memory_part_size(backend, regions.size(), remote_key));
  joined.append(head);
  append_memory_part(joined, backend, regions, remote_key);
  return joined;
}

void Blob::append_memory_part(std::string& bytes, std::string_view backend,
                              const std::vector<Region>& regions, std::string_view remote_key) {
  BlobWriter writer(bytes);
  writer.integer(kSectionCount, std::uint64_t{1});
  writer.section(backend, regions.front().type, regions.size());
  for (const Region& region : regions) writer.element(region, remote_key);
}

std::size_t Blob::memory_part_size(std::string_view backend, std::size_t regions,
                                   std::string_view remote_key) noexcept {
  const std::size_t section = kBackendTag.size() + backend.size() + kListTag.size() +
                              kListKind.size() + kTypeTag.size() + sizeof(std::int32_t) +
                              kCountTag.size() + sizeof(std::uint64_t) + 4 * kFieldOverhead;
  return kSectionCountSize + section + regions * (kLeastElementSize + remote_key.size());
}

std::optional<Blob::Section> Blob::parse_memory_part(std::string_view bytes) {
  try {
    BlobReader reader(bytes);
    if (reader.integer<std::uint64_t>(kSectionCount) != 1) return std::nullopt;
    Section section = read_section(reader);
    reader.end();
    for (const Element& element : section.elements) {
      if (element.remote_key != section.elements.front().remote_key) return std::nullopt;
    }
    return section;
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::string join_nixl_metadata(std::string_view connection, std::string_view buffer) {
  return Blob::join(*Blob::parse(std::string(connection)), {std::string(buffer)});
}

std::string agent_name_of(std::string_view blob) {
  return std::string(Blob::parse(std::string(blob))->agent());
}

NIXL_CONNECT_NAMESPACE_END
