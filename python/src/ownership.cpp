#include <atomic>

#include "module.h"

namespace nixl_connect::python {

namespace {

/// A stack of objects to release. Lock-free, so that a `fork` cannot leave it locked.
struct Abandoned {
  PyObject* object;
  Abandoned* next;
};

std::atomic<Abandoned*> abandoned{nullptr};

/// The queue that an event loop watches, if any has one: a loop that sleeps in its poll is
/// woken by nothing else.
std::atomic<std::weak_ptr<CompletionQueue>> watched_queue;
/// A token that nobody waits for.
constexpr std::uint64_t kWakeToken = ~std::uint64_t{0};

thread_local int deferred_depth = 0;

int release_pending(void*) {
  release_abandoned();
  return 0;
}

void abandon(PyObject* object) {
  auto* entry = new Abandoned{object, abandoned.load(std::memory_order_relaxed)};
  bool found_empty = false;
  do {
    found_empty = entry->next == nullptr;
  } while (!abandoned.compare_exchange_weak(entry->next, entry, std::memory_order_release,
                                            std::memory_order_relaxed));
  // From here on the entry is whoever's releases it.
  if (!found_empty) return;
  // Whoever found the stack empty asks the main thread to empty it, and the latest event loop.
  // When Python's list of such requests is full, the next call into this module does it.
  Py_AddPendingCall(&release_pending, nullptr);
  if (const auto queue = watched_queue.load().lock()) queue->push(kWakeToken);
}

bool python_may_run_here() {
  return deferred_depth == 0 && PyGILState_GetThisThreadState() != nullptr;
}

}  // namespace

std::shared_ptr<const void> own(nb::handle object) {
  if (object.is_none()) return nullptr;
  object.inc_ref();
  return {object.ptr(), [](PyObject* owned) {
            if (python_may_run_here()) {
              Py_DECREF(owned);
            } else {
              abandon(owned);
            }
          }};
}

void release_abandoned() {
  if (abandoned.load(std::memory_order_relaxed) == nullptr) return;
  Abandoned* entry = abandoned.exchange(nullptr, std::memory_order_acquire);
  while (entry != nullptr) {
    Abandoned* next = entry->next;
    Py_DECREF(entry->object);
    delete entry;
    entry = next;
  }
}

void watch_with(const std::shared_ptr<CompletionQueue>& queue) { watched_queue.store(queue); }

Deferred::Deferred() { ++deferred_depth; }
Deferred::~Deferred() { --deferred_depth; }

}  // namespace nixl_connect::python
