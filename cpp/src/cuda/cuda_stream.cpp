#include <chrono>
#include <memory>
#include <string>

#include "cuda/cuda_memory.h"
#include "nixl_connect/cuda.h"
#include "nixl_connect/error.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// A GPU that has nothing else to do passes an event within ten microseconds; to come back to the
/// event costs more than to wait for that.
constexpr std::chrono::microseconds kIdleWait{30};

[[noreturn]] void fail(const CudaDriver& driver, const char* call, cuda::Result error) {
  throw Error(ErrorCode::backend, std::string("stream: ") + call + " failed with " +
                                      driver.name_of(error) + " (" + std::to_string(error) + ")");
}

/// An event, in the context of the stream that it is recorded in.
class StreamEvent {
 public:
  StreamEvent(const CudaDriver& driver, cuda::Context* context)
      : driver_(driver), context_(context) {
    const auto error = driver.EventCreate(&event_, cuda::kEventWithoutTiming);
    if (error != cuda::kSuccess) fail(driver, "cuEventCreate", error);
  }
  StreamEvent(const StreamEvent&) = delete;
  StreamEvent& operator=(const StreamEvent&) = delete;
  ~StreamEvent() {
    const CudaContext current(context_);
    driver_.EventDestroy(event_);
  }

  void record(cuda::Stream* stream) {
    const auto error = driver_.EventRecord(event_, stream);
    if (error != cuda::kSuccess) fail(driver_, "cuEventRecord", error);
  }

  bool done() const {
    const CudaContext current(context_);
    const auto error = driver_.EventQuery(event_);
    if (error == cuda::kNotReady) return false;
    if (error == cuda::kSuccess) return true;
    throw Error(ErrorCode::backend,
                std::string("the work on the GPU that it was to wait for has failed: ") +
                    driver_.name_of(error) + " (" + std::to_string(error) + ")");
  }

 private:
  const CudaDriver& driver_;
  cuda::Context* const context_;
  cuda::Event* event_ = nullptr;
};

bool is_default(cuda::Stream* stream) {
  return reinterpret_cast<std::uintptr_t>(stream) < cuda::kFirstStreamHandle;
}

cuda::Context* context_of(const CudaDriver& driver, std::uint32_t device, cuda::Stream* stream) {
  cuda::Context* context = nullptr;
  if (!is_default(stream)) {
    auto error = driver.StreamGetCtx(stream, &context);
    // It is of a green context, which is then the caller's.
    if (error == cuda::kNotSupported) error = driver.CtxGetCurrent(&context);
    if (error != cuda::kSuccess) fail(driver, "cuStreamGetCtx", error);
    return context;
  }
  context = primary_cuda_context(driver, static_cast<int>(device));
  if (context == nullptr) {
    throw Error(ErrorCode::backend,
                "stream: there is no CUDA context of device " + std::to_string(device));
  }
  return context;
}

}  // namespace

Fence after_cuda_stream(std::uint32_t device, void* stream) {
  const CudaDriver* driver = CudaDriver::find();
  if (driver == nullptr) {
    throw Error(ErrorCode::backend,
                "stream: the CUDA driver's library, libcuda.so.1, is not there");
  }
  auto* const handle = static_cast<cuda::Stream*>(stream);
  cuda::Context* const context = context_of(*driver, device, handle);
  const CudaContext current(context);
  int capturing = cuda::kNotCapturing;
  const auto error = driver->StreamIsCapturing(handle, &capturing);
  if (error != cuda::kSuccess && error != cuda::kStreamCaptureImplicit) {
    fail(*driver, "cuStreamIsCapturing", error);
  }
  if (error == cuda::kStreamCaptureImplicit || capturing != cuda::kNotCapturing) {
    throw Error(ErrorCode::invalid_argument,
                "stream: expected one whose work is being done, got one that is being captured "
                "into a graph: its work is done when the graph is launched, in a stream to name "
                "then");
  }
  const bool idle = driver->StreamQuery(handle) == cuda::kSuccess;
  // An event in a default stream may wait for other streams too.
  if (idle && !is_default(handle)) return {};
  const auto begun = std::chrono::steady_clock::now();
  auto event = std::make_shared<StreamEvent>(*driver, context);
  event->record(handle);
  do {
    if (event->done()) return {};
  } while (idle && std::chrono::steady_clock::now() < begun + kIdleWait);
  return [event] { return event->done(); };
}

NIXL_CONNECT_NAMESPACE_END
