#include "world.h"

#include <algorithm>
#include <thread>

#include "environment.h"
#include "fake_cuda.h"

namespace {

thread_local ContextStack current;

void drop_work(Stream& stream) {
  stream.work.clear();
  stream.done = stream.given;
}

}  // namespace

World& world() {
  static World& the_world = *new World;
  return the_world;
}

ContextStack& contexts_of_thread() { return current; }
Context* context_now() { return current.top(); }

World::World()
    : live(from_environment("FAKE_CUDA_LIVE", 0) != 0),
      contexts(std::size_t(from_environment("FAKE_CUDA_DEVICES", 4))) {
  for (std::size_t i = 0; i < contexts.size(); ++i) {
    Context& context = contexts[i];
    context.device = int(i);
    context.id = i + 1;
    for (auto* stream : {&context.legacy, &context.per_thread}) {
      *stream = std::make_shared<Stream>();
      (*stream)->context = &context;
    }
  }
}

Context& World::in_use(int device) {
  Context& context = of(device);
  if (context.retained == 0) context.retained = 1;
  return context;
}

Stream* World::stream(void* handle, Context* context) {
  const auto value = reinterpret_cast<std::uintptr_t>(handle);
  if (value > kPerThread) {
    for (const auto& known : streams) {
      if (known.get() == handle) return known.get();
    }
    return nullptr;
  }
  if (context == nullptr) return nullptr;
  return value == kPerThread ? context->per_thread.get() : context->legacy.get();
}

std::vector<std::shared_ptr<Stream>> World::blocking(const Context* context) {
  std::vector<std::shared_ptr<Stream>> found{context->legacy, context->per_thread};
  for (const auto& stream : streams) {
    if (stream->context == context && !stream->non_blocking) found.push_back(stream);
  }
  return found;
}

std::vector<Mark> World::marks(Stream* stream) {
  std::vector<Mark> found;
  if (stream == stream->context->legacy.get()) {
    for (const auto& each : blocking(stream->context)) found.push_back({each, each->given});
  } else {
    found.push_back({stream->shared_from_this(), stream->given});
    const auto& legacy = stream->context->legacy;
    if (!stream->non_blocking) found.push_back({legacy, legacy->given});
  }
  return found;
}

void World::give(Stream* stream, Work work) {
  if (stream->capturing) {
    stream->captured.push_back(std::move(work));
    return;
  }
  for (Mark& mark : marks(stream)) work.after.push_back(std::move(mark));
  stream->work.push_back(std::move(work));
  ++stream->given;
  if (live && !std::exchange(serving, true)) std::thread([this] { serve(); }).detach();
  changed.notify_all();
}

void World::serve() {
  std::unique_lock lock(mutex);
  for (;;) {
    bool ran = false;
    auto until = std::chrono::steady_clock::time_point::max();
    std::vector<std::shared_ptr<Stream>> all = streams;
    for (const Context& context : contexts) {
      all.push_back(context.legacy);
      all.push_back(context.per_thread);
    }
    for (const auto& stream : all) {
      while (!stream->work.empty()) {
        Work& next = stream->work.front();
        if (!passed(next.after)) break;
        const auto now = std::chrono::steady_clock::now();
        if (!next.ends) {
          next.ends =
              now + std::chrono::duration_cast<std::chrono::steady_clock::duration>(next.takes);
        }
        if (now < *next.ends) {
          until = std::min(until, *next.ends);
          break;
        }
        const auto run = std::move(next.run);
        lock.unlock();
        if (run) run();
        lock.lock();
        stream->work.pop_front();
        ++stream->done;
        ran = true;
      }
    }
    if (ran) {
      changed.notify_all();
    } else if (until == std::chrono::steady_clock::time_point::max()) {
      changed.wait(lock);
    } else {
      changed.wait_until(lock, until);
    }
  }
}

Function& function(const char* name) {
  const std::lock_guard lock(world().mutex);
  return world().functions[name];
}

Call::Call(Function& called) : lock_(world().mutex) {
  ++called.calls;
  if (called.errors == 0) return;
  --called.errors;
  fault_ = called.error;
}

extern "C" {

void fake_cuda_reset() {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  for (const auto& stream : w.streams) drop_work(*stream);
  w.streams.clear();
  for (Context& context : w.contexts) {
    context.retained = 0;
    for (const auto& stream : {context.legacy, context.per_thread}) drop_work(*stream);
  }
  w.memory.clear();
  for (auto& [name, known] : w.functions) known = {};
  w.broken_captures = 0;
}

void* fake_cuda_stream_create(int device) {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  w.streams.push_back(std::make_shared<Stream>());
  w.streams.back()->context = &w.in_use(device);
  return w.streams.back().get();
}

void fake_cuda_launch_fill(void* stream, int device, void* memory, int value, std::size_t size) {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  Work work;
  work.run = [start = reinterpret_cast<Address>(memory), value, size] {
    std::unique_lock inner(world().mutex);
    const Span span = world().span(start, size);
    inner.unlock();
    if (span.start != nullptr) std::fill_n(span.start, size, static_cast<unsigned char>(value));
  };
  w.give(w.stream(stream, &w.in_use(device)), std::move(work));
}

void fake_cuda_launch_sleep(void* stream, int device, double seconds) {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  Work work;
  work.takes = std::chrono::duration<double>(seconds);
  w.give(w.stream(stream, &w.in_use(device)), std::move(work));
}

void fake_cuda_run(void* stream, int device) {
  World& w = world();
  std::unique_lock lock(w.mutex);
  Stream* in = w.stream(stream, &w.in_use(device));
  const auto work = std::exchange(in->work, {});
  lock.unlock();
  for (const Work& each : work) {
    if (each.run) each.run();
  }
  lock.lock();
  in->done = in->given;
  w.changed.notify_all();
}

void fake_cuda_capture(void* stream, int capturing) {
  const std::lock_guard lock(world().mutex);
  auto* const in = static_cast<Stream*>(stream);
  in->capturing = capturing != 0;
  if (in->capturing) in->captured.clear();
}

void fake_cuda_replay(void* stream) {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  auto* const in = static_cast<Stream*>(stream);
  for (const Work& work : in->captured) w.give(in, work);
}

void fake_cuda_fail(const char* name, int error, int times) {
  Function& failing = function(name);
  const std::lock_guard lock(world().mutex);
  failing.error = error;
  failing.errors = times;
}

int fake_cuda_events() {
  const std::lock_guard lock(world().mutex);
  return world().events;
}

int fake_cuda_broken_captures() {
  const std::lock_guard lock(world().mutex);
  return world().broken_captures;
}

int fake_cuda_calls(const char* name) {
  const Function& known = function(name);
  const std::lock_guard lock(world().mutex);
  return known.calls;
}

int fake_cuda_current_device() { return context_now() == nullptr ? -1 : context_now()->device; }

}  // extern "C"
