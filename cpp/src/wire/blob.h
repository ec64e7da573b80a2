#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nixl_connect/api.h"
#include "wire/region.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// The longest name of an agent that is taken from a peer.
inline constexpr std::size_t kMaxNameSize = 4096;

/// A peer's NIXL metadata, checked from the first byte to the last before NIXL sees any of
/// it: NIXL's own reader believes the lengths it finds, and damaged blobs have crashed it.
///
/// The form, read in NIXL 0.10 to 1.5 and confirmed on the blobs those versions write:
/// `nixlSerDes|`, then fields of a tag, a length of eight bytes, that many bytes and `|`:
/// `Agent`; `Conns` (a count) and for each `t` (backend) and `c` (its address); an untagged
/// `MemSection`; `nixlSecElms` (a count) and for each `bknd`, `nixlDList` (`nixlSDList`),
/// `t` (memory type), `n` (a count) and as many untagged elements of address, size, device
/// (eight bytes each) and remote key.
class Blob {
 public:
  struct Connection {
    std::string_view backend;
    std::string_view address;
  };
  struct Element {
    Region region;
    std::string_view remote_key;
  };
  /// Bytes of an element without a remote key.
  static constexpr std::size_t kLeastElementSize = 4 * sizeof(std::uint64_t) + 1;
  struct Section {
    std::string_view backend;
    std::vector<Element> elements;
  };

  /// Throws `Error(rejected_metadata)` that says what is wrong and at which byte.
  static std::shared_ptr<const Blob> parse(std::string bytes);

  /// One blob of the connection information in `connections` and the regions in each of
  /// `regions`, which are what `Agent::partial_metadata` gives for no regions and for some; one or
  /// more. Throws `Error(rejected_metadata)` when one of `regions` has not the expected form.
  static std::string join(const Blob& connections, const std::vector<std::string>& regions);

  /// The same of regions of one memory type, one or more, that have one remote key.
  static std::string join(const Blob& connections, std::string_view backend,
                          const std::vector<Region>& regions, std::string_view remote_key);

  /// What that has after the head of `connections`, and how many bytes that is.
  static void append_memory_part(std::string& bytes, std::string_view backend,
                                 const std::vector<Region>& regions, std::string_view remote_key);
  static std::size_t memory_part_size(std::string_view backend, std::size_t regions,
                                      std::string_view remote_key) noexcept;
  /// What it has been made of; nothing for what `append_memory_part` has not made.
  static std::optional<Section> parse_memory_part(std::string_view bytes);

  /// A blob of one connection and these elements. To NIXL a remote agent's name is a label,
  /// and an element's region says which addresses may be used with its remote key.
  static std::string make(std::string_view agent, std::string_view backend,
                          std::string_view address, const std::vector<Element>& elements);

  const std::string& bytes() const noexcept { return bytes_; }
  std::string_view agent() const noexcept { return agent_; }
  const std::vector<Connection>& connections() const noexcept { return connections_; }
  const std::vector<Section>& sections() const noexcept { return sections_; }
  /// Everything before the part about memory.
  std::string_view head() const noexcept {
    return std::string_view(bytes_).substr(0, memory_offset_);
  }

  Blob(const Blob&) = delete;
  Blob& operator=(const Blob&) = delete;

 private:
  explicit Blob(std::string bytes);

  const std::string bytes_;
  std::string_view agent_;
  std::vector<Connection> connections_;
  std::vector<Section> sections_;
  /// Where the part about memory begins.
  std::size_t memory_offset_ = 0;
};

NIXL_CONNECT_NAMESPACE_END
