#include "cuda/cuda_memory.h"

#include <algorithm>
#include <array>
#include <atomic>

#include "nixl_connect/cuda.h"
#include "nixl_connect/error.h"
#include "system/loaded_libraries.h"
#include "system/process.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// Checks descriptors one after the other; those in an allocation that is known cost nothing.
class Checker {
 public:
  Checker(const CudaDriver& driver, std::string_view argument, bool indexed)
      : driver_(driver), argument_(argument), indexed_(indexed) {}

  void check(const Descriptor& d, std::size_t index) {
    if (d.device.kind == DeviceKind::xpu) return;
    if (!known_ || d.address < known_->start || d.address >= known_->start + known_->size) {
      known_ = CudaMemory::at(driver_, d.address);
      if (known_ && known_->size == 0) {
        // The driver does not know it, nor then what is mapped together with it.
        known_->start = d.address & ~(kBlock - 1);
        known_->size = kBlock;
      }
    }
    if (!known_) return;
    const CudaMemory& memory = *known_;
    if (memory.managed) return;
    const bool on_device = memory.type == cuda::kDeviceMemory;
    if (d.device.kind == DeviceKind::host) {
      if (on_device) refuse(d, index, "memory of cuda:" + std::to_string(memory.device));
      return;
    }
    if (memory.type == cuda::kHostMemory) refuse(d, index, "host memory");
    if (!on_device) refuse(d, index, "an address that the CUDA driver does not know");
    if (memory.device != static_cast<int>(d.device.id)) {
      refuse(d, index, "memory of cuda:" + std::to_string(memory.device));
    }
    // What is mapped page by page may go on beyond what the driver calls its range.
    const std::size_t left = memory.start + memory.size - d.address;
    if (memory.plain && memory.size > 0 && d.size > left) {
      throw Error(ErrorCode::invalid_argument,
                  where(index) + ": expected at most " + std::to_string(left) +
                      " bytes, which the allocation has from there on, got " +
                      std::to_string(d.size));
    }
  }

 private:
  /// What CUDA maps at once.
  static constexpr std::uintptr_t kBlock = std::uintptr_t{2} << 20;

  std::string where(std::size_t index) const {
    const std::string argument(argument_);
    return indexed_ ? argument + "[" + std::to_string(index) + "]" : argument;
  }

  [[noreturn]] void refuse(const Descriptor& d, std::size_t index, const std::string& found) const {
    char address[32];
    std::snprintf(address, sizeof address, "%#zx", d.address);
    throw Error(ErrorCode::invalid_argument, where(index) + ": expected memory of '" +
                                                 d.device.to_string() + "', got " + found + " at " +
                                                 address);
  }

  const CudaDriver& driver_;
  const std::string_view argument_;
  const bool indexed_;
  std::optional<CudaMemory> known_;
};

}  // namespace

std::optional<CudaMemory> CudaMemory::at(const CudaDriver& driver, std::uintptr_t address) {
  enum { kItsContext, kType, kManaged, kDevice, kPlain, kStart, kSize, kPool, kCount };
  std::array<cuda::Attribute, kCount> attributes{
      cuda::kContext,       cuda::kMemoryType,         cuda::kIsManaged,
      cuda::kDeviceOrdinal, cuda::kIsLegacyIpcCapable, cuda::kRangeStart,
      cuda::kRangeSize,     cuda::kMemoryPool};
  // As wide as any of them; the driver writes what it needs of each.
  std::array<std::uint64_t, kCount> values{};
  std::array<void*, kCount> places{};
  for (std::size_t i = 0; i < kCount; ++i) places[i] = &values[i];
  const CaptureRelaxed relaxed(driver);
  if (driver.PointerGetAttributes(kCount, attributes.data(), places.data(), address) !=
      cuda::kSuccess) {
    return std::nullopt;
  }
  CudaMemory memory;
  memory.context = reinterpret_cast<cuda::Context*>(values[kItsContext]);  // NOLINT: a handle
  memory.type = static_cast<unsigned>(values[kType]);
  memory.managed = values[kManaged] != 0;
  memory.device = static_cast<int>(static_cast<std::uint32_t>(values[kDevice]));
  // UCX has seen drivers that say no of what `cudaMalloc` made; only that is of a context, though.
  memory.plain = values[kPlain] != 0 || (memory.context != nullptr && !memory.managed);
  memory.start = values[kStart];
  memory.size = values[kSize];
  memory.pooled = values[kPool] != 0;
  return memory;
}

void check_named_cuda_memory(const std::vector<Descriptor>& descriptors,
                             std::string_view argument) {
  const CudaDriver* driver = nullptr;
  std::optional<Checker> checker;
  for (std::size_t i = 0; i < descriptors.size(); ++i) {
    if (descriptors[i].device.kind != DeviceKind::cuda) continue;
    if (!checker) {
      driver = CudaDriver::find();
      if (driver == nullptr) return;
      checker.emplace(*driver, argument, descriptors.size() > 1);
    }
    checker->check(descriptors[i], i);
  }
}

void check_cuda_memory(const std::vector<Descriptor>& descriptors, std::string_view argument) {
  const CudaDriver* driver = CudaDriver::find_loaded();
  if (driver == nullptr) {
    check_named_cuda_memory(descriptors, argument);
    return;
  }
  Checker checker(*driver, argument, descriptors.size() > 1);
  for (std::size_t i = 0; i < descriptors.size(); ++i) checker.check(descriptors[i], i);
}

namespace {

/// Nothing if the driver does not know it as a GPU's.
std::optional<CudaMemory> device_memory_at(std::uintptr_t address) {
  const CudaDriver* driver = CudaDriver::find();
  if (driver == nullptr) return std::nullopt;
  const auto memory = CudaMemory::at(*driver, address);
  return memory && memory->type == cuda::kDeviceMemory ? memory : std::nullopt;
}

}  // namespace

std::optional<std::uint32_t> cuda_device_of(std::uintptr_t address) {
  const auto memory = device_memory_at(address);
  if (!memory || memory->device < 0) return std::nullopt;
  return static_cast<std::uint32_t>(memory->device);
}

namespace {

/// Whether UCX may use its transport that copies to and from a GPU, by what `UCX_TLS` says.
bool may_copy(std::string_view transports) {
  const bool excludes = transports.substr(0, 1) == "^";
  if (excludes) transports.remove_prefix(1);
  bool named = false;
  while (!transports.empty()) {
    const auto end = std::min(transports.find(','), transports.size());
    const std::string_view name = transports.substr(0, end);
    named |= name == "cuda" || name == "cuda_copy" || (name == "all" && !excludes);
    transports.remove_prefix(std::min(end + 1, transports.size()));
  }
  return named != excludes;
}

std::string transports_advice() {
  const auto transports = environment("UCX_TLS");
  if (transports.empty() || may_copy(transports)) return {};
  return "; UCX_TLS is '" + std::string(transports) +
         "', which leaves out UCX's transport to and from a GPU's memory, cuda_copy";
}

/// What UCX lacks that it needs to tell a GPU's memory from the host's.
std::string ucx_advice() {
  if (loaded_libraries("libucp").empty()) return {};
  if (loaded_libraries("libuct_cuda").empty()) {
    return "; UCX has not loaded its modules for CUDA: they need libcuda.so.1 and "
           "libnvidia-ml.so.1 of NVIDIA's driver (in a container, "
           "NVIDIA_DRIVER_CAPABILITIES=compute,utility), and a variant of NIXL's wheel that fits "
           "its CUDA";
  }
  if (std::string advice = transports_advice(); !advice.empty()) return advice;
  if (loaded_libraries("libucm_cuda").empty() && environment("UCX_MEMTYPE_CACHE") != "n") {
    return "; UCX has not loaded libucm_cuda, most often because it does not find CUDA's runtime "
           "library, libcudart, of the CUDA that NIXL was built for, and so takes a GPU's memory "
           "for the host's: install that library (nvidia-cuda-runtime-cu12, or "
           "nvidia-cuda-runtime for CUDA 13), or set UCX_MEMTYPE_CACHE=n";
  }
  return {};
}

std::optional<CudaMemory> device_memory_of(const Region& region) {
  return region.type == kVram ? device_memory_at(region.address) : std::nullopt;
}

/// What there is to say of a kind of memory.
std::string kind_advice(const CudaMemory& memory) {
  if (memory.managed) {
    return "; it is managed memory, which not every transport takes: allocate with cudaMalloc";
  }
  if (memory.pooled) {
    return "; it is from a pool of cudaMallocAsync, which CUDA IPC and RDMA cannot always take: "
           "allocate with cudaMalloc (torch: no 'backend:cudaMallocAsync' in "
           "PYTORCH_CUDA_ALLOC_CONF)";
  }
  if (!memory.plain) {
    return "; it is mapped page by page, as torch's expandable segments are, which CUDA IPC and "
           "RDMA cannot always take: allocate with cudaMalloc (torch: 'expandable_segments:False' "
           "in PYTORCH_CUDA_ALLOC_CONF)";
  }
  return {};
}

}  // namespace

std::string cuda_memory_advice(const std::vector<Region>& regions) {
  for (const Region& region : regions) {
    const auto memory = device_memory_of(region);
    if (!memory) continue;
    if (std::string advice = kind_advice(*memory); !advice.empty()) return advice;
  }
  return {};
}

std::string cuda_start_advice() {
  const std::string advice = transports_advice();
  return advice.empty() ? advice : advice + ": NIXL refuses that where there is an NVIDIA GPU";
}

std::string cuda_registration_advice(const std::vector<Region>& regions) {
  const bool on_device = std::any_of(regions.begin(), regions.end(), [](const Region& region) {
    return device_memory_of(region).has_value();
  });
  return on_device ? cuda_memory_advice(regions) + ucx_advice() : "";
}

cuda::Context* primary_cuda_context(const CudaDriver& driver, int device) {
  // To retain one that is not there would make it, which takes memory of the GPU.
  unsigned flags = 0;
  int active = 0;
  if (driver.DevicePrimaryCtxGetState(device, &flags, &active) != cuda::kSuccess || active == 0) {
    return nullptr;
  }
  // Retained once, for as long as the process lives.
  static std::array<std::atomic<cuda::Context*>, 64> contexts{};
  if (device < 0 || static_cast<std::size_t>(device) >= contexts.size()) return nullptr;
  auto& known = contexts[static_cast<std::size_t>(device)];
  cuda::Context* context = known.load(std::memory_order_acquire);
  if (context != nullptr) return context;
  if (driver.DevicePrimaryCtxRetain(&context, device) != cuda::kSuccess) return nullptr;
  known.store(context, std::memory_order_release);
  return context;
}

cuda::Context* cuda_context_of(const Region& region) {
  const CudaDriver* driver = CudaDriver::find();
  if (driver == nullptr) return nullptr;
  const auto memory = CudaMemory::at(*driver, region.address);
  if (!memory || memory->type == cuda::kUnknownMemory) return nullptr;
  return memory->context != nullptr ? memory->context
                                    : primary_cuda_context(*driver, memory->device);
}

cuda::Context* current_cuda_context() {
  const CudaDriver* driver = CudaDriver::find();
  cuda::Context* current = nullptr;
  if (driver != nullptr) driver->CtxGetCurrent(&current);
  return current;
}

CudaContext::CudaContext(cuda::Context* context) noexcept {
  if (context == nullptr) return;
  const CudaDriver* driver = CudaDriver::find();
  relaxed_.emplace(*driver);
  if (driver->CtxPushCurrent(context) == cuda::kSuccess) driver_ = driver;
}

CudaContext::~CudaContext() {
  cuda::Context* ours = nullptr;
  if (driver_ != nullptr) driver_->CtxPopCurrent(&ours);
}

NIXL_CONNECT_NAMESPACE_END
