#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cuda/cuda_driver.h"
#include "nixl_connect/api.h"
#include "nixl_connect/descriptor.h"
#include "wire/region.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// What the CUDA driver knows of an address.
struct CudaMemory {
  unsigned type = cuda::kUnknownMemory;
  int device = 0;
  bool managed = false;
  /// Whether `cudaMalloc` made it, or what amounts to that.
  bool plain = false;
  /// From `cudaMallocAsync`.
  bool pooled = false;
  std::uintptr_t start = 0;
  std::size_t size = 0;
  /// Null for memory that belongs to a device and not to one context.
  cuda::Context* context = nullptr;

  /// Nothing when the driver does not answer.
  static std::optional<CudaMemory> at(const CudaDriver& driver, std::uintptr_t address);
};

/// Throws `Error(invalid_argument)` when a descriptor that names a CUDA device is not memory of it.
/// Without a driver, as on a ROCm host, nothing is known and nothing thrown.
void check_named_cuda_memory(const std::vector<Descriptor>& descriptors, std::string_view argument);

/// Words to add to an error about the regions, when they are of a kind of CUDA memory that cannot
/// always be registered; else none.
std::string cuda_memory_advice(const std::vector<Region>& regions);
/// The same of an error before anything has moved, with what UCX lacks for a GPU's memory.
std::string cuda_registration_advice(const std::vector<Region>& regions);

/// Words to add to the error when no agent can be made: NIXL 1.5.1 makes none where there is a GPU
/// that `UCX_TLS` leaves out (seen on an H100).
std::string cuda_start_advice();

/// The context of a device's streams and memory that are in no other; null when nobody in this
/// process has made it.
cuda::Context* primary_cuda_context(const CudaDriver& driver, int device);

/// The calling thread's; null if it has none, and without a driver.
cuda::Context* current_cuda_context();

/// That of a region on a device; null without a driver.
cuda::Context* cuda_context_of(const Region& region);

/// While this lives, a CUDA context is the calling thread's, and its calls break no capture of a
/// graph on another thread. NIXL and UCX need both to register and move a GPU's memory, and to look
/// whether it has been moved: without a context the driver has crashed in UCX's queries (reported
/// of NIXL's own progress thread, ai-dynamo/nixl#2102).
class CudaContext {
 public:
  /// Does nothing for null. When the driver refuses the context, the rest still holds.
  explicit CudaContext(cuda::Context* context) noexcept;
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;
  ~CudaContext();

 private:
  std::optional<CaptureRelaxed> relaxed_;
  const CudaDriver* driver_ = nullptr;
};

NIXL_CONNECT_NAMESPACE_END
