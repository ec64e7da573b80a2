#include "fake_cuda.h"

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr int kSuccess = 0;
constexpr int kInvalidValue = 1;
constexpr int kInvalidDevice = 101;
constexpr int kInvalidContext = 201;
constexpr int kInvalidHandle = 400;
constexpr int kNotReady = 600;
constexpr int kIllegalAddress = 700;
constexpr int kCaptureUnsupported = 900;
constexpr int kCaptureImplicit = 906;

constexpr int kGlobal = 0;
constexpr int kRelaxed = 2;

constexpr std::size_t kDevices = 4;
constexpr std::uintptr_t kLegacy = 1;
constexpr std::uintptr_t kPerThread = 2;

}  // namespace

struct Context;

struct Stream {
  Context* context = nullptr;
  std::vector<std::function<void()>> work;
  /// How much work it has been given, and has done.
  std::uint64_t given = 0;
  std::uint64_t done = 0;
  bool capturing = false;
};

struct Context {
  int device = 0;
  Stream legacy;
  Stream per_thread;
};

struct Event {
  Context* context = nullptr;
  /// What each stream must have done.
  std::vector<std::pair<Stream*, std::uint64_t>> after;
};

namespace {

struct Allocation {
  std::size_t size = 0;
  int device = 0;
  int kind = kFakePlain;
};

struct World {
  std::mutex mutex;
  std::array<Context, kDevices> contexts;
  std::vector<std::unique_ptr<Stream>> streams;
  std::map<std::uintptr_t, Allocation> memory;
  std::map<std::string, std::pair<int, int>> faults;
  std::map<std::string, int> calls;
  int events = 0;
  int broken_captures = 0;

  World() {
    for (std::size_t i = 0; i < kDevices; ++i) {
      contexts[i].device = static_cast<int>(i);
      contexts[i].legacy.context = contexts[i].per_thread.context = &contexts[i];
    }
  }

  std::vector<Stream*> all_of(const Context* context) {
    std::vector<Stream*> found{&contexts[static_cast<std::size_t>(context->device)].legacy,
                               &contexts[static_cast<std::size_t>(context->device)].per_thread};
    for (auto& stream : streams) {
      if (stream->context == context) found.push_back(stream.get());
    }
    return found;
  }
};

World& world() {
  static World& the_world = *new World;
  return the_world;
}

thread_local std::vector<Context*> current;
thread_local int mode = kGlobal;

/// What each call begins with.
class Call {
 public:
  explicit Call(const char* function) : lock_(world().mutex) {
    ++world().calls[function];
    const auto it = world().faults.find(function);
    if (it == world().faults.end() || it->second.second == 0) return;
    --it->second.second;
    fault_ = it->second.first;
  }
  int fault() const { return fault_; }

 private:
  std::unique_lock<std::mutex> lock_;
  int fault_ = kSuccess;
};

Stream* stream_at(void* handle, Context* context) {
  const auto value = reinterpret_cast<std::uintptr_t>(handle);
  if (value > kPerThread) return static_cast<Stream*>(handle);
  if (context == nullptr) return nullptr;
  return value == kPerThread ? &context->per_thread : &context->legacy;
}

Context* context_now() { return current.empty() ? nullptr : current.back(); }

/// A call that no thread may make while any captures, unless its own mode is relaxed.
bool breaks_a_capture() {
  if (mode == kRelaxed) return false;
  bool broke = false;
  for (auto& stream : world().streams) {
    if (!std::exchange(stream->capturing, false)) continue;
    ++world().broken_captures;
    broke = true;
  }
  return broke;
}

const char* name_of(int error) {
  switch (error) {
    case kSuccess: return "CUDA_SUCCESS";
    case kInvalidValue: return "CUDA_ERROR_INVALID_VALUE";
    case kInvalidContext: return "CUDA_ERROR_INVALID_CONTEXT";
    case kIllegalAddress: return "CUDA_ERROR_ILLEGAL_ADDRESS";
    default: return nullptr;
  }
}

}  // namespace

#define FAKE_CALL(name)  \
  const Call call(name); \
  if (call.fault() != kSuccess) return call.fault()

extern "C" {

int cuGetErrorName(int error, const char** name) {
  *name = name_of(error);
  return *name != nullptr ? kSuccess : kInvalidValue;
}

int cuPointerGetAttributes(unsigned count, int* attributes, void** values,
                           unsigned long long address) {
  FAKE_CALL("cuPointerGetAttributes");
  const auto next = world().memory.upper_bound(address);
  const Allocation* found = nullptr;
  std::uintptr_t start = 0;
  if (next != world().memory.begin()) {
    start = std::prev(next)->first;
    const Allocation& before = std::prev(next)->second;
    if (address < start + before.size) found = &before;
  }
  for (unsigned i = 0; i < count; ++i) {
    const auto put = [&](auto value) { std::memcpy(values[i], &value, sizeof value); };
    const bool host = found != nullptr && found->kind == kFakePinned;
    const bool bound = found != nullptr && (found->kind == kFakePlain || host);
    switch (attributes[i]) {
      case 1:
        put(bound ? &world().contexts[static_cast<std::size_t>(found->device)]
                  : static_cast<Context*>(nullptr));
        break;
      case 2: put(found == nullptr ? 0u : host ? 1u : 2u); break;
      case 8: put(found != nullptr && found->kind == kFakeManaged); break;
      case 9: put(found == nullptr ? -2 : found->device); break;
      case 10: put(found != nullptr && found->kind == kFakePlain); break;
      case 11: put(static_cast<std::uint64_t>(found == nullptr ? 0 : start)); break;
      case 12: put(found == nullptr ? std::size_t{0} : found->size); break;
      case 17:
        put(found != nullptr && found->kind == kFakePooled ? static_cast<void*>(&world())
                                                           : nullptr);
        break;
      default: return kInvalidValue;
    }
  }
  return kSuccess;
}

int cuDevicePrimaryCtxRetain(Context** context, int device) {
  FAKE_CALL("cuDevicePrimaryCtxRetain");
  if (device < 0 || static_cast<std::size_t>(device) >= kDevices) return kInvalidDevice;
  *context = &world().contexts[static_cast<std::size_t>(device)];
  return kSuccess;
}

int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
  FAKE_CALL("cuDevicePrimaryCtxGetState");
  if (device < 0 || static_cast<std::size_t>(device) >= kDevices) return kInvalidDevice;
  *flags = 0;
  *active = 1;
  return kSuccess;
}

int cuCtxGetCurrent(Context** context) {
  FAKE_CALL("cuCtxGetCurrent");
  *context = context_now();
  return kSuccess;
}

int cuCtxPushCurrent_v2(Context* context) {
  FAKE_CALL("cuCtxPushCurrent");
  if (context == nullptr) return kInvalidContext;
  current.push_back(context);
  return kSuccess;
}

int cuCtxPopCurrent_v2(Context** context) {
  FAKE_CALL("cuCtxPopCurrent");
  if (current.empty()) return kInvalidContext;
  *context = current.back();
  current.pop_back();
  return kSuccess;
}

int cuStreamGetCtx(Stream* stream, Context** context) {
  FAKE_CALL("cuStreamGetCtx");
  for (auto& known : world().streams) {
    if (known.get() != stream) continue;
    *context = stream->context;
    return kSuccess;
  }
  return kInvalidHandle;
}

int cuStreamIsCapturing(Stream* stream, int* capturing) {
  FAKE_CALL("cuStreamIsCapturing");
  Stream* of = stream_at(stream, context_now());
  if (of == nullptr) return kInvalidContext;
  if (of == &of->context->legacy) {
    for (const Stream* other : world().all_of(of->context)) {
      if (other->capturing) return kCaptureImplicit;
    }
  }
  *capturing = of->capturing ? 1 : 0;
  return kSuccess;
}

int cuThreadExchangeStreamCaptureMode(int* other) {
  FAKE_CALL("cuThreadExchangeStreamCaptureMode");
  std::swap(mode, *other);
  return kSuccess;
}

int cuEventCreate(Event** event, unsigned) {
  FAKE_CALL("cuEventCreate");
  if (context_now() == nullptr) return kInvalidContext;
  *event = new Event{context_now(), {}};
  ++world().events;
  return kSuccess;
}

int cuEventRecord(Event* event, Stream* stream) {
  FAKE_CALL("cuEventRecord");
  Stream* in = stream_at(stream, context_now());
  if (in == nullptr) return kInvalidContext;
  if (in->context != event->context) return kInvalidHandle;
  if (in->capturing) return kCaptureUnsupported;
  event->after.clear();
  const bool legacy = in == &in->context->legacy;
  for (Stream* each : legacy ? world().all_of(in->context) : std::vector<Stream*>{in}) {
    event->after.emplace_back(each, each->given);
  }
  return kSuccess;
}

int cuEventQuery(Event* event) {
  FAKE_CALL("cuEventQuery");
  if (context_now() == nullptr) return kInvalidContext;
  if (breaks_a_capture()) return kCaptureUnsupported;
  for (const auto& [stream, work] : event->after) {
    if (stream->done < work) return kNotReady;
  }
  return kSuccess;
}

int cuEventDestroy_v2(Event* event) {
  FAKE_CALL("cuEventDestroy");
  if (context_now() == nullptr) return kInvalidContext;
  delete event;
  --world().events;
  return kSuccess;
}

void fake_cuda_reset() {
  const std::lock_guard lock(world().mutex);
  World& w = world();
  w.streams.clear();
  for (Context& context : w.contexts) {
    for (Stream* stream : {&context.legacy, &context.per_thread}) {
      stream->work.clear();
      stream->done = stream->given;
    }
  }
  for (const auto& [address, allocation] : w.memory) std::free(reinterpret_cast<void*>(address));
  w.memory.clear();
  w.faults.clear();
  w.calls.clear();
  w.broken_captures = 0;
}

void* fake_cuda_malloc(std::size_t size, int device, int kind) {
  // Apart from the host's, as the driver maps it.
  constexpr std::size_t kBlock = std::size_t{2} << 20;
  const std::size_t mapped = (size + kBlock - 1) / kBlock * kBlock;
  void* memory = std::aligned_alloc(kBlock, mapped);
  std::memset(memory, 0, mapped);
  const std::lock_guard lock(world().mutex);
  world().memory[reinterpret_cast<std::uintptr_t>(memory)] = {size, device, kind};
  return memory;
}

void fake_cuda_free(void* memory) {
  const std::lock_guard lock(world().mutex);
  if (world().memory.erase(reinterpret_cast<std::uintptr_t>(memory)) > 0) std::free(memory);
}

void* fake_cuda_stream_create(int device) {
  const std::lock_guard lock(world().mutex);
  world().streams.push_back(std::make_unique<Stream>());
  world().streams.back()->context = &world().contexts[static_cast<std::size_t>(device)];
  return world().streams.back().get();
}

void fake_cuda_launch_fill(void* stream, int device, void* memory, int value, std::size_t size) {
  const std::lock_guard lock(world().mutex);
  Stream* in = stream_at(stream, &world().contexts[static_cast<std::size_t>(device)]);
  in->work.push_back([memory, value, size] { std::memset(memory, value, size); });
  ++in->given;
}

void fake_cuda_run(void* stream, int device) {
  const std::lock_guard lock(world().mutex);
  Stream* in = stream_at(stream, &world().contexts[static_cast<std::size_t>(device)]);
  for (const auto& kernel : in->work) kernel();
  in->work.clear();
  in->done = in->given;
}

void fake_cuda_capture(void* stream, int capturing) {
  const std::lock_guard lock(world().mutex);
  static_cast<Stream*>(stream)->capturing = capturing != 0;
}

void fake_cuda_fail(const char* function, int error, int times) {
  const std::lock_guard lock(world().mutex);
  world().faults[function] = {error, times};
}

int fake_cuda_events() {
  const std::lock_guard lock(world().mutex);
  return world().events;
}

int fake_cuda_broken_captures() {
  const std::lock_guard lock(world().mutex);
  return world().broken_captures;
}

int fake_cuda_calls(const char* function) {
  const std::lock_guard lock(world().mutex);
  return world().calls[function];
}

int fake_cuda_current_device() { return current.empty() ? -1 : current.back()->device; }

}  // extern "C"
