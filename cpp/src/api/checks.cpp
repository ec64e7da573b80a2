#include "api/checks.h"

#include <string>

#include "cuda/cuda_memory.h"
#include "nixl_connect/error.h"
#include "wire/coverage.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

std::string at(const char* argument, std::size_t index) {
  return std::string(argument) + "[" + std::to_string(index) + "]";
}

const char* kind_name(OperationKind kind) {
  return kind == OperationKind::read ? "READ" : kind == OperationKind::write ? "WRITE" : "none";
}

}  // namespace

void check_local(const std::vector<Descriptor>& local) {
  if (local.empty()) {
    throw Error(ErrorCode::invalid_argument,
                "local_descriptors: expected at least one descriptor, got none");
  }
  if (local.size() > kMaxDescriptors) {
    throw Error(ErrorCode::invalid_argument,
                "local_descriptors: expected at most " + std::to_string(kMaxDescriptors) +
                    " descriptors in one operation, got " + std::to_string(local.size()));
  }
  for (std::size_t i = 0; i < local.size(); ++i) {
    const Descriptor& d = local[i];
    const auto where = [&] { return at("local_descriptors", i); };
    if (d.address == 0) {
      throw Error(ErrorCode::invalid_argument, where() + ": expected an address, got null");
    }
    if (d.size == 0 || d.address + d.size < d.address) {
      throw Error(ErrorCode::invalid_argument, where() +
                                                   ": expected a size of at least one byte, "
                                                   "within memory, got " +
                                                   std::to_string(d.size));
    }
    if (d.device.kind == DeviceKind::unspecified) {
      throw Error(ErrorCode::invalid_argument, where() + ": expected a device, got none");
    }
  }
  check_named_cuda_memory(local, "local_descriptors");
}

void check_apart(const std::vector<Region>& written) {
  const auto both = find_overlap(written);
  if (!both) return;
  throw Error(ErrorCode::invalid_argument,
              at("local_descriptors", both->second) + ": expected memory of its own to write to, " +
                  "got bytes that " + at("local_descriptors", both->first) + " has too");
}

std::vector<Region> remote_regions(const RdmaMetadata& remote) {
  std::vector<Region> regions;
  regions.reserve(remote.descriptors.size());
  for (std::size_t i = 0; i < remote.descriptors.size(); ++i) {
    const RemoteDescriptor& d = remote.descriptors[i];
    const auto where = [&] { return at("remote_metadata.descriptors", i); };
    if (d.address == 0 || d.size == 0 || d.address + d.size < d.address) {
      throw Error(ErrorCode::rejected_metadata, where() + ": impossible region");
    }
    regions.push_back(Region::of(d.device, d.address, d.size));
  }
  return regions;
}

void check_sizes(const std::vector<Region>& remote, const std::vector<Descriptor>& local) {
  for (std::size_t i = 0; i < remote.size(); ++i) {
    if (remote[i].size != local[i].size) {
      throw Error(ErrorCode::invalid_argument, at("local_descriptors", i) +
                                                   ": expected the remote's size of " +
                                                   std::to_string(remote[i].size) + " bytes, got " +
                                                   std::to_string(local[i].size));
    }
  }
}

void check_for(OperationKind kind, const RdmaMetadata& remote, std::size_t count) {
  if (remote.operation_kind != kind) {
    throw Error(ErrorCode::rejected_metadata,
                std::string("remote_metadata.operation_kind: expected ") + kind_name(kind) +
                    ", got " + kind_name(remote.operation_kind));
  }
  check_key(remote);
  if (remote.descriptors.size() != count) {
    throw Error(ErrorCode::invalid_argument,
                "local_descriptors: expected " + std::to_string(remote.descriptors.size()) +
                    " descriptors, as many as the remote's, got " + std::to_string(count));
  }
}

void check_key(const RdmaMetadata& remote) {
  if (remote.notification_key.empty()) {
    throw Error(ErrorCode::rejected_metadata, "remote_metadata.notification_key: empty");
  }
}

NIXL_CONNECT_NAMESPACE_END
