#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "agent/nixl_api.h"
#include "wire/region.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// What NIXL's calls take descriptors in: a list for each memory type, which is kept for the next
/// call, because to make and free one costs three allocations.
///
/// Thread safety: one thread at a time.
template <typename Handle>
class DescriptorList {
 public:
  explicit DescriptorList(const NixlApi& api) : api_(api) {}
  DescriptorList(const DescriptorList&) = delete;
  DescriptorList& operator=(const DescriptorList&) = delete;
  ~DescriptorList();

  /// A list of these regions, which are of one memory type, until the next call. Throws
  /// `AgentError`.
  Handle* of(const std::vector<Region>& regions);

 private:
  struct Kept {
    Handle* list = nullptr;
    std::size_t size = 0;
  };
  const NixlApi& api_;
  std::array<Kept, 2> kept_;
};

extern template class DescriptorList<capi::RegListHandle>;
extern template class DescriptorList<capi::XferListHandle>;

NIXL_CONNECT_NAMESPACE_END
