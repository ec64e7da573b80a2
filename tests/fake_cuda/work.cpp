// Streams, what they are given, and events.
#include <algorithm>
#include <cstring>

#include "fake_cuda.h"
#include "world.h"

namespace {

constexpr int kGlobalMode = 0;
constexpr int kRelaxedMode = 2;

thread_local int capture_mode = kGlobalMode;

/// A call that no thread may make while any captures, unless its own mode is relaxed.
bool breaks_a_capture() {
  if (capture_mode == kRelaxedMode) return false;
  bool broke = false;
  for (const auto& stream : world().streams) {
    if (!std::exchange(stream->capturing, false)) continue;
    ++world().broken_captures;
    broke = true;
  }
  return broke;
}

/// Memory is looked for when the copy is given, as the driver does, so that it is there until then.
int give_copy(Stream* stream, Address to, Address from, std::size_t size) {
  const Span target = world().span(to, size);
  const Span source = world().span(from, size);
  if (target.start == nullptr || source.start == nullptr) return kInvalidValue;
  Work work;
  work.run = [target, source, size] { std::memcpy(target.start, source.start, size); };
  world().give(stream, std::move(work));
  return kSuccess;
}

int copy(Stream* handle, Address to, Address from, std::size_t size) {
  Stream* stream = world().stream(handle, context_now());
  return stream != nullptr ? give_copy(stream, to, from, size) : kInvalidHandle;
}

/// One that is done when the call returns.
int copy_now(const Call& call, Address to, Address from, std::size_t size) {
  Stream* stream = context_now()->legacy.get();
  const int error = give_copy(stream, to, from, size);
  if (error != kSuccess) return error;
  call.wait([mark = Mark{stream->shared_from_this(), stream->given}] { return mark.passed(); });
  return kSuccess;
}

}  // namespace

extern "C" {

int cuStreamCreate(Stream** stream, unsigned flags) {
  FAKE_CALL_IN_CONTEXT("cuStreamCreate");
  auto made = std::make_shared<Stream>();
  made->context = context_now();
  made->non_blocking = (flags & 1) != 0;
  *stream = made.get();
  world().streams.push_back(std::move(made));
  return kSuccess;
}

int cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  FAKE_CALL_IN_CONTEXT("cuCtxGetStreamPriorityRange");
  *least = *greatest = 0;
  return kSuccess;
}

int cuStreamCreateWithPriority(Stream** stream, unsigned flags, int) {
  return cuStreamCreate(stream, flags);
}

int cuStreamDestroy_v2(Stream* stream) {
  FAKE_CALL("cuStreamDestroy");
  auto& streams = world().streams;
  const auto it = std::find_if(streams.begin(), streams.end(),
                               [&](const auto& known) { return known.get() == stream; });
  if (it == streams.end()) return kInvalidHandle;
  // What it was given is still done.
  const auto kept = *it;
  call.wait([&] { return kept->done == kept->given; });
  streams.erase(std::find(streams.begin(), streams.end(), kept));
  return kSuccess;
}

int cuStreamSynchronize(Stream* stream) {
  FAKE_CALL("cuStreamSynchronize");
  Stream* in = world().stream(stream, context_now());
  if (in == nullptr) return kInvalidHandle;
  call.wait([marks = world().marks(in)] { return passed(marks); });
  return kSuccess;
}

int cuStreamQuery(Stream* stream) {
  FAKE_CALL("cuStreamQuery");
  Stream* in = world().stream(stream, context_now());
  if (in == nullptr) return kInvalidHandle;
  return passed(world().marks(in)) ? kSuccess : kNotReady;
}

int cuCtxSynchronize() {
  FAKE_CALL_IN_CONTEXT("cuCtxSynchronize");
  std::vector<Mark> marks = world().marks(context_now()->legacy.get());
  for (const auto& stream : world().streams) {
    if (stream->context == context_now()) marks.push_back({stream, stream->given});
  }
  call.wait([&] { return passed(marks); });
  return kSuccess;
}

int cuStreamGetCtx(Stream* stream, Context** context) {
  FAKE_CALL("cuStreamGetCtx");
  const Stream* in = world().stream(stream, context_now());
  if (in == nullptr) return kInvalidHandle;
  *context = in->context;
  return kSuccess;
}

int cuStreamIsCapturing(Stream* stream, int* capturing) {
  FAKE_CALL("cuStreamIsCapturing");
  const Stream* of = world().stream(stream, context_now());
  if (of == nullptr) return kInvalidContext;
  if (of == of->context->legacy.get()) {
    for (const auto& other : world().blocking(of->context)) {
      if (other->capturing) return kCaptureImplicit;
    }
  }
  *capturing = of->capturing ? 1 : 0;
  return kSuccess;
}

int cuThreadExchangeStreamCaptureMode(int* other) {
  FAKE_CALL("cuThreadExchangeStreamCaptureMode");
  std::swap(capture_mode, *other);
  return kSuccess;
}

int cuStreamAddCallback(Stream* stream, void (*callback)(Stream*, int, void*), void* data,
                        unsigned) {
  FAKE_CALL("cuStreamAddCallback");
  Stream* in = world().stream(stream, context_now());
  if (in == nullptr) return kInvalidHandle;
  Work work;
  work.run = [=] { callback(stream, kSuccess, data); };
  world().give(in, std::move(work));
  return kSuccess;
}

int cuMemcpyAsync(Address to, Address from, std::size_t size, Stream* stream) {
  FAKE_CALL_IN_CONTEXT("cuMemcpyAsync");
  return copy(stream, to, from, size);
}

int cuMemcpyDtoDAsync_v2(Address to, Address from, std::size_t size, Stream* stream) {
  FAKE_CALL_IN_CONTEXT("cuMemcpyDtoDAsync");
  return copy(stream, to, from, size);
}

int cuMemcpyHtoD_v2(Address to, const void* from, std::size_t size) {
  FAKE_CALL_IN_CONTEXT("cuMemcpyHtoD");
  return copy_now(call, to, reinterpret_cast<Address>(from), size);
}

int cuMemcpyDtoH_v2(void* to, Address from, std::size_t size) {
  FAKE_CALL_IN_CONTEXT("cuMemcpyDtoH");
  return copy_now(call, reinterpret_cast<Address>(to), from, size);
}

int cuMemcpyPeer(Address to, Context*, Address from, Context*, std::size_t size) {
  FAKE_CALL_IN_CONTEXT("cuMemcpyPeer");
  return copy_now(call, to, from, size);
}

int cuMemcpyHtoDAsync_v2(Address to, const void* from, std::size_t size, Stream* stream) {
  FAKE_CALL_IN_CONTEXT("cuMemcpyHtoDAsync");
  return copy(stream, to, reinterpret_cast<Address>(from), size);
}

int cuMemcpyDtoHAsync_v2(void* to, Address from, std::size_t size, Stream* stream) {
  FAKE_CALL_IN_CONTEXT("cuMemcpyDtoHAsync");
  return copy(stream, reinterpret_cast<Address>(to), from, size);
}

int cuMemcpyBatchAsync_v2(const Address* to, const Address* from, const std::size_t* sizes,
                          std::size_t count, const void*, const std::size_t*, std::size_t,
                          Stream* stream) {
  FAKE_CALL_IN_CONTEXT("cuMemcpyBatchAsync");
  Stream* in = world().stream(stream, context_now());
  // The driver takes no default stream here.
  if (in == nullptr || in == in->context->legacy.get()) return kInvalidHandle;
  for (std::size_t i = 0; i < count; ++i) {
    if (const int error = give_copy(in, to[i], from[i], sizes[i]); error != kSuccess) return error;
  }
  return kSuccess;
}

int cuEventCreate(Event** event, unsigned) {
  FAKE_CALL_IN_CONTEXT("cuEventCreate");
  *event = new Event{context_now(), {}};
  ++world().events;
  return kSuccess;
}

int cuEventRecord(Event* event, Stream* stream) {
  FAKE_CALL("cuEventRecord");
  Stream* in = world().stream(stream, context_now());
  if (in == nullptr) return kInvalidContext;
  if (in->context != event->context) return kInvalidHandle;
  if (in->capturing) return kCaptureUnsupported;
  event->after = world().marks(in);
  return kSuccess;
}

int cuEventQuery(Event* event) {
  FAKE_CALL_IN_CONTEXT("cuEventQuery");
  if (breaks_a_capture()) return kCaptureUnsupported;
  return passed(event->after) ? kSuccess : kNotReady;
}

int cuEventDestroy_v2(Event* event) {
  FAKE_CALL_IN_CONTEXT("cuEventDestroy");
  delete event;
  --world().events;
  return kSuccess;
}

}  // extern "C"
