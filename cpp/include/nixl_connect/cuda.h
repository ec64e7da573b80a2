#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "nixl_connect/api.h"
#include "nixl_connect/descriptor.h"
#include "nixl_connect/fence.h"

/// \file
/// What an application that has memory on NVIDIA GPUs needs beside the rest. The CUDA driver's
/// library is loaded when it is first asked for; without it, all this does nothing or says so.

NIXL_CONNECT_NAMESPACE_BEGIN

/// The work that a CUDA stream has been given so far: an event that is recorded now, by the calling
/// thread, and asked for later without waiting. Empty when all is done already.
///
/// `stream` is a `CUstream`, or a `cudaStream_t`, which is the same. Null and `CU_STREAM_LEGACY`
/// stand for the default stream that waits for all others, except those that say otherwise;
/// `CU_STREAM_PER_THREAD` stands for the calling thread's. `device` is the CUDA ordinal of a
/// default stream's device, in its primary context; for any other stream CUDA knows the device.
///
/// Throws `Error(invalid_argument)` when the stream is being captured into a graph, and
/// `Error(backend)` when there is no driver or it refuses. Thread safe.
[[nodiscard]] NIXL_CONNECT_API Fence after_cuda_stream(std::uint32_t device, void* stream);

/// Throws `Error(invalid_argument)` when the CUDA driver knows that memory is elsewhere than its
/// descriptor says, or that memory made by `cudaMalloc` ends sooner. The error names the argument,
/// with an index if there are several descriptors. Operations themselves check descriptors that
/// name a CUDA device; this function also checks those that name the host, when the driver is in
/// use in this process. Does nothing without a driver. Thread safe. Takes about a microsecond for
/// each allocation, not for each descriptor, when the descriptors are in order.
NIXL_CONNECT_API void check_cuda_memory(const std::vector<Descriptor>& descriptors,
                                        std::string_view argument);

/// The ordinal of the CUDA device that has the memory at the address; nothing without a driver, and
/// when the driver knows no memory of a device there. Thread safe.
NIXL_CONNECT_API std::optional<std::uint32_t> cuda_device_of(std::uintptr_t address);

NIXL_CONNECT_NAMESPACE_END
