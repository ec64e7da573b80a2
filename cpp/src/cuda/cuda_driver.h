#pragma once

#include <cstddef>
#include <cstdint>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// The CUDA driver's interface, as far as it is used here: numbers and arguments as in cuda.h of
/// CUDA 12 and 13, which are the same.
namespace cuda {

using Result = int;
inline constexpr Result kSuccess = 0;
inline constexpr Result kNotReady = 600;
inline constexpr Result kNotSupported = 801;
/// Of the legacy default stream, while another of its context is captured.
inline constexpr Result kStreamCaptureImplicit = 906;

enum Attribute : int {
  kContext = 1,
  kMemoryType = 2,
  kIsManaged = 8,
  kDeviceOrdinal = 9,
  kIsLegacyIpcCapable = 10,
  kRangeStart = 11,
  kRangeSize = 12,
  kMemoryPool = 17,
};
enum MemoryType : unsigned { kUnknownMemory = 0, kHostMemory = 1, kDeviceMemory = 2 };
enum CaptureMode : int { kRelaxedCapture = 2 };
inline constexpr int kNotCapturing = 0;
inline constexpr unsigned kEventWithoutTiming = 2;
/// Handles below this one stand for the context's default streams.
inline constexpr std::uintptr_t kFirstStreamHandle = 3;

struct Context;
struct Stream;
struct Event;

}  // namespace cuda

/// The functions of the CUDA driver's library, `libcuda.so.1` or what the environment variable
/// `NIXL_CONNECT_CUDA_LIBRARY` names.
///
/// Nothing here initialises CUDA: memory of a GPU is there only when somebody has.
/// Thread safety: immutable once loaded; it stays loaded.
struct CudaDriver {
  /// Null where there is none, or one from before CUDA 11.3.
  static const CudaDriver* find();
  /// Null too while nobody in this process has loaded it.
  static const CudaDriver* find_loaded();

  /// The name of an error, such as "CUDA_ERROR_ILLEGAL_ADDRESS".
  const char* name_of(cuda::Result error) const noexcept;

#define NIXL_CONNECT_CUDA(X)                                                      \
  X(GetErrorName, cuGetErrorName, (cuda::Result, const char**))                   \
  X(PointerGetAttributes, cuPointerGetAttributes,                                 \
    (unsigned, cuda::Attribute*, void**, unsigned long long))                     \
  X(DevicePrimaryCtxGetState, cuDevicePrimaryCtxGetState, (int, unsigned*, int*)) \
  X(DevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, (cuda::Context**, int))     \
  X(CtxGetCurrent, cuCtxGetCurrent, (cuda::Context**))                            \
  X(CtxPushCurrent, cuCtxPushCurrent_v2, (cuda::Context*))                        \
  X(CtxPopCurrent, cuCtxPopCurrent_v2, (cuda::Context**))                         \
  X(StreamGetCtx, cuStreamGetCtx, (cuda::Stream*, cuda::Context**))               \
  X(StreamIsCapturing, cuStreamIsCapturing, (cuda::Stream*, int*))                \
  X(StreamQuery, cuStreamQuery, (cuda::Stream*))                                  \
  X(ThreadExchangeStreamCaptureMode, cuThreadExchangeStreamCaptureMode, (int*))   \
  X(EventCreate, cuEventCreate, (cuda::Event**, unsigned))                        \
  X(EventRecord, cuEventRecord, (cuda::Event*, cuda::Stream*))                    \
  X(EventQuery, cuEventQuery, (cuda::Event*))                                     \
  X(EventDestroy, cuEventDestroy_v2, (cuda::Event*))

#define NIXL_CONNECT_DECLARE(name, symbol, arguments) cuda::Result(*name) arguments = nullptr;
  NIXL_CONNECT_CUDA(NIXL_CONNECT_DECLARE)
#undef NIXL_CONNECT_DECLARE
};

/// Calls on this thread may be made while another one captures a stream into a graph, which the
/// driver otherwise forbids for as long as the capture lasts.
class CaptureRelaxed {
 public:
  explicit CaptureRelaxed(const CudaDriver& driver) noexcept : driver_(driver) { exchange(); }
  CaptureRelaxed(const CaptureRelaxed&) = delete;
  CaptureRelaxed& operator=(const CaptureRelaxed&) = delete;
  ~CaptureRelaxed() { exchange(); }

 private:
  void exchange() noexcept { driver_.ThreadExchangeStreamCaptureMode(&mode_); }

  const CudaDriver& driver_;
  int mode_ = cuda::kRelaxedCapture;
};

NIXL_CONNECT_NAMESPACE_END
