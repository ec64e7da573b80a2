#include "agent/host_keys.h"

#include "wire/blob.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// With RDMA the second registration already has another key.
constexpr std::size_t kEnough = 8;

}  // namespace

bool HostKeys::are_one() const noexcept { return !differ_ && addresses_.size() >= kEnough; }

void HostKeys::learn(const std::string& partial_metadata) {
  if (differ_ || are_one()) return;
  const auto blob = Blob::parse(partial_metadata);
  for (const Blob::Section& section : blob->sections()) {
    for (const auto& [region, key] : section.elements) {
      if (region.type != kDram) continue;
      if (addresses_.empty()) {
        key_ = key;
        backend_ = section.backend;
      }
      addresses_.insert(region.address);
      differ_ = differ_ || key != key_ || section.backend != backend_ || region.device != 0;
    }
  }
}

NIXL_CONNECT_NAMESPACE_END
