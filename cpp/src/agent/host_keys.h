#pragma once

#include <set>
#include <string>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// What is known of the remote keys that NIXL gives to memory of the host: without RDMA all
/// registrations have the same one, and what NIXL would write of a region is known without asking.
///
/// Thread safety: for whoever has the agent lock.
class HostKeys {
 public:
  /// Looks at what NIXL has written of some regions; at the first few only. Throws
  /// `Error(rejected_metadata)` for a form that is not known.
  void learn(const std::string& partial_metadata);

  /// Whether all registrations so far had one key, and they were enough to believe that all have.
  bool are_one() const noexcept;
  const std::string& key() const noexcept { return key_; }
  /// The backend that has registered them.
  const std::string& backend() const noexcept { return backend_; }

 private:
  bool differ_ = false;
  std::string key_;
  std::string backend_;
  /// Where the regions were that had it.
  std::set<std::uintptr_t> addresses_;
};

NIXL_CONNECT_NAMESPACE_END
