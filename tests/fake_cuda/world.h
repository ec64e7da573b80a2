#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// What the stand-in consists of: devices with a context each, their streams, and memory.

inline constexpr int kSuccess = 0;
inline constexpr int kInvalidValue = 1;
inline constexpr int kOutOfMemory = 2;
inline constexpr int kInvalidDevice = 101;
inline constexpr int kInvalidContext = 201;
inline constexpr int kInvalidHandle = 400;
inline constexpr int kNotFound = 500;
inline constexpr int kNotReady = 600;
inline constexpr int kIllegalAddress = 700;
inline constexpr int kNotSupported = 801;
inline constexpr int kCaptureUnsupported = 900;
inline constexpr int kCaptureImplicit = 906;

inline constexpr std::uintptr_t kPerThread = 2;

/// Bytes that a device says it has.
inline constexpr std::size_t kDeviceMemory = std::size_t{80} << 30;

using Address = unsigned long long;

struct Context;
struct Stream;

/// So much of a stream's work.
struct Mark {
  std::shared_ptr<Stream> stream;
  std::uint64_t work = 0;
  bool passed() const;
};

struct Work {
  /// What has to be done before it.
  std::vector<Mark> after;
  std::chrono::duration<double> takes{0};
  /// Is called without the world's lock.
  std::function<void()> run;
  std::optional<std::chrono::steady_clock::time_point> ends;
};

struct Stream : std::enable_shared_from_this<Stream> {
  Context* context = nullptr;
  /// Neither waits for the legacy default stream nor lets that one wait.
  bool non_blocking = false;
  bool capturing = false;
  std::deque<Work> work;
  std::vector<Work> captured;
  /// How much work it has been given, and has done.
  std::uint64_t given = 0;
  std::uint64_t done = 0;
};

inline bool Mark::passed() const { return stream->done >= work; }
inline bool passed(const std::vector<Mark>& marks) {
  return std::all_of(marks.begin(), marks.end(), [](const Mark& mark) { return mark.passed(); });
}

struct Context {
  int device = 0;
  std::uint64_t id = 0;
  /// How often the device's primary context, which this is, is retained.
  int retained = 0;
  std::shared_ptr<Stream> legacy, per_thread;
};

struct Event {
  Context* context = nullptr;
  std::vector<Mark> after;
};

/// Memory itself: a file in memory, so that another process can map it.
struct Block {
  Block(int its_file, std::size_t its_size, int its_device);
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block();

  int file;
  std::size_t size;
  int device;
  /// Where the GPU itself sees it.
  unsigned char* inside;
};

/// A range of addresses that programs have for a block.
struct Allocation {
  std::shared_ptr<Block> block;
  std::size_t size = 0;
  std::size_t mapped = 0;
  int device = 0;
  int kind = 0;
  std::uint64_t id = 0;
  /// Of another process's memory: how often it has been opened.
  int opened = 0;
};

/// Where some memory is; keeps it there. Empty if an allocation ends before it does.
struct Span {
  unsigned char* start = nullptr;
  std::shared_ptr<Block> block;
};

/// What tests know and want of a function of the driver's.
struct Function {
  int calls = 0;
  /// What the next calls return, and how many.
  int error = kSuccess;
  int errors = 0;
};

struct World {
  World();

  std::mutex mutex;
  /// When work has been given or done.
  std::condition_variable changed;
  const bool live;
  std::vector<Context> contexts;
  std::vector<std::shared_ptr<Stream>> streams;
  std::map<std::uintptr_t, Allocation> memory;
  std::uint64_t allocations = 0;
  std::map<std::string, Function> functions;
  int events = 0;
  int broken_captures = 0;
  bool serving = false;

  bool has(int device) const { return device >= 0 && std::size_t(device) < contexts.size(); }
  Context& of(int device) { return contexts[std::size_t(device)]; }
  /// As whoever uses the runtime's functions has it.
  Context& in_use(int device);
  /// The stream that a handle stands for in a context; null if there is none.
  Stream* stream(void* handle, Context* context);
  /// The context's streams that the legacy default one waits for, and itself.
  std::vector<std::shared_ptr<Stream>> blocking(const Context* context);
  /// What has to be done before what the stream is given next.
  std::vector<Mark> marks(Stream* stream);
  void give(Stream* stream, Work work);

  /// The allocation that an address is in.
  std::map<std::uintptr_t, Allocation>::iterator find(Address address);
  Span span(Address address, std::size_t size);

 private:
  void serve();
};

World& world();

/// The contexts that a thread has pushed. It needs no destructor: UCX calls the driver also when
/// the process ends, after those of a thread's objects.
struct ContextStack {
  std::array<Context*, 16> contexts{};
  std::size_t depth = 0;

  Context* top() const { return depth == 0 ? nullptr : contexts[depth - 1]; }
  void push(Context* context) { contexts.at(depth++) = context; }
  void pop() { --depth; }
};
ContextStack& contexts_of_thread();
Context* context_now();

/// The function of this name; it stays where it is.
Function& function(const char* name);

/// What each call begins with: it holds the world's lock for as long as the call lasts.
class Call {
 public:
  explicit Call(Function& called);
  int fault() const { return fault_; }
  /// Until the world is so, without its lock.
  template <typename Condition>
  void wait(Condition condition) const {
    world().changed.wait(lock_, condition);
  }

 private:
  mutable std::unique_lock<std::mutex> lock_;
  int fault_ = kSuccess;
};

#define FAKE_CALL(name)                     \
  static Function& called = function(name); \
  const Call call(called);                  \
  if (call.fault() != kSuccess) return call.fault()

#define FAKE_CALL_IN_CONTEXT(name) \
  FAKE_CALL(name);                 \
  if (context_now() == nullptr) return kInvalidContext
