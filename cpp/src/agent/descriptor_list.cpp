#include "agent/descriptor_list.h"

#include <utility>

#include "agent/agent.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// A list of more is not kept.
constexpr std::size_t kMostKept = 64;

template <typename Handle>
struct Calls;

template <>
struct Calls<capi::RegListHandle> {
  static constexpr const char* kName = "reg_dlist";
  static constexpr auto kCreate = &NixlApi::create_reg_dlist;
  static constexpr auto kDestroy = &NixlApi::destroy_reg_dlist;
  static constexpr auto kClear = &NixlApi::reg_dlist_clear;
  static capi::Status add(const NixlApi& api, capi::RegListHandle* list, const Region& r) {
    return api.reg_dlist_add_desc(list, r.address, r.size, r.device, nullptr, 0);
  }
};

template <>
struct Calls<capi::XferListHandle> {
  static constexpr const char* kName = "xfer_dlist";
  static constexpr auto kCreate = &NixlApi::create_xfer_dlist;
  static constexpr auto kDestroy = &NixlApi::destroy_xfer_dlist;
  static constexpr auto kClear = &NixlApi::xfer_dlist_clear;
  static capi::Status add(const NixlApi& api, capi::XferListHandle* list, const Region& r) {
    return api.xfer_dlist_add_desc(list, r.address, r.size, r.device);
  }
};

template <typename Handle>
void check(capi::Status status) {
  if (status != capi::kSuccess) throw AgentError(Calls<Handle>::kName, status);
}

}  // namespace

template <typename Handle>
DescriptorList<Handle>::~DescriptorList() {
  for (const Kept& kept : kept_) {
    if (kept.list != nullptr) (api_.*Calls<Handle>::kDestroy)(kept.list);
  }
}

template <typename Handle>
Handle* DescriptorList<Handle>::of(const std::vector<Region>& regions) {
  const MemoryType type = regions.empty() ? kDram : regions.front().type;
  auto& [list, size] = kept_.at(static_cast<std::size_t>(type));
  if (size > kMostKept) (api_.*Calls<Handle>::kDestroy)(std::exchange(list, nullptr));
  if (list == nullptr) {
    check<Handle>((api_.*Calls<Handle>::kCreate)(type, &list));
  } else if (size > 0) {
    check<Handle>((api_.*Calls<Handle>::kClear)(list));
  }
  size = regions.size();
  for (const Region& region : regions) check<Handle>(Calls<Handle>::add(api_, list, region));
  return list;
}

template class DescriptorList<capi::RegListHandle>;
template class DescriptorList<capi::XferListHandle>;

NIXL_CONNECT_NAMESPACE_END
