#include <nanobind/stl/shared_ptr.h>

#include <exception>
#include <iterator>
#include <mutex>
#include <string>
#include <utility>

#include "coroutine.h"
#include "module.h"

namespace nixl_connect::python {

namespace {

/// A new reference, or null. What Python has for this is not in its stable ABI; this is since 3.12.
template <typename... Arguments>
PyObject* call_method(const nb::object& object, PyObject* name, Arguments... arguments) {
  PyObject* all[] = {object.ptr(), arguments...};
  return PyObject_VectorcallMethod(name, all, std::size(all), nullptr);
}

}  // namespace

/// The futures of one event loop that wait, by token. A token is used once.
class Waiting {
 public:
  std::uint64_t add(nb::object future) {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) {
      free_.push_back(static_cast<std::uint32_t>(slots_.size()));
      slots_.emplace_back();
    }
    const std::uint32_t index = free_.back();
    free_.pop_back();
    Slot& slot = slots_[index];
    slot.future = std::move(future);
    return std::uint64_t{slot.generation} << 32 | index;
  }

  nb::object find(std::uint64_t token) {
    const std::lock_guard lock(mutex_);
    Slot* slot = slot_of(token);
    return slot == nullptr ? nb::object() : slot->future;
  }

  /// What was there; released by the caller, without the lock.
  nb::object remove(std::uint64_t token) {
    const std::lock_guard lock(mutex_);
    Slot* slot = slot_of(token);
    if (slot == nullptr) return {};
    ++slot->generation;
    free_.push_back(static_cast<std::uint32_t>(token));
    return std::exchange(slot->future, nb::object());
  }

  int visit(visitproc visit, void* arg) const {
    for (const Slot& slot : slots_) Py_VISIT(slot.future.ptr());
    return 0;
  }
  std::vector<nb::object> clear() {
    std::vector<nb::object> all;
    for (Slot& slot : slots_) all.push_back(std::exchange(slot.future, nb::object()));
    return all;
  }

 private:
  struct Slot {
    nb::object future;
    std::uint32_t generation = 0;
  };

  /// Null where nobody waits for the token any more.
  Slot* slot_of(std::uint64_t token) {
    const auto index = static_cast<std::uint32_t>(token);
    if (index >= slots_.size()) return nullptr;
    Slot& slot = slots_[index];
    return slot.generation == token >> 32 && slot.future.is_valid() ? &slot : nullptr;
  }

  std::mutex mutex_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;
};

namespace {

/// Names of methods, made once: without a GIL, a thread that waits for another one to make a static
/// keeps Python's collector from stopping it.
struct Methods {
  PyObject* done = PyUnicode_InternFromString("done");
  PyObject* set_result = PyUnicode_InternFromString("set_result");
  PyObject* create_future = PyUnicode_InternFromString("create_future");
  PyObject* await = PyUnicode_InternFromString("__await__");
  PyObject* raise_failure = PyUnicode_InternFromString("_raise_failure");
  nb::object running_loop = nb::module_::import_("asyncio").attr("_get_running_loop");
};

const Methods& methods() {
  static const Methods& made = *new Methods;
  return made;
}

}  // namespace

/// One event loop's completion queue, and the futures that wait on it.
struct Bridge {
  Bridge() { watch_with(queue); }

  /// Sets the futures whose tokens have arrived.
  void drain() {
    release_abandoned();
    std::vector<std::uint64_t> tokens;
    queue->drain(tokens);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      try {
        finish(tokens[i]);
      } catch (...) {
        // A signal's handler has raised. The loop comes back for what is left, this one included.
        for (; i < tokens.size(); ++i) queue->push(tokens[i]);
        throw;
      }
    }
  }

  const std::shared_ptr<CompletionQueue> queue = CompletionQueue::create();
  Waiting waiting;

 private:
  void finish(std::uint64_t token) {
    // Not every token has one: some say only that there is something to release.
    const nb::object future = waiting.find(token);
    if (!future.is_valid()) return;
    if (checked(call_method(future, methods().done)).ptr() == Py_False) {
      checked(call_method(future, methods().set_result, Py_True));
    }
    waiting.remove(token);
  }
};

namespace {

/// The loop that this thread asked for last, and its bridge: mostly the only one. Weak references.
struct Latest {
  Latest() = default;
  Latest(Latest&&) = default;
  ~Latest() {
    // The main thread's goes after Python, whose objects nobody can release then.
    if (Py_IsInitialized() == 0) new Latest(std::move(*this));
  }

  std::shared_ptr<const void> loop, bridge;
};
thread_local Latest latest;

nb::object referent(const std::shared_ptr<const void>& reference) {
  if (reference == nullptr) return nb::none();
  return checked(PyObject_CallNoArgs(static_cast<PyObject*>(const_cast<void*>(reference.get()))));
}

/// The running event loop, and its bridge.
std::pair<nb::object, nb::object> current() {
  nb::object loop = checked(PyObject_CallNoArgs(methods().running_loop.ptr()));
  if (!loop.is_none() && referent(latest.loop).is(loop)) {
    nb::object bridge = referent(latest.bridge);
    if (!bridge.is_none()) return {std::move(loop), std::move(bridge)};
  }
  // Raises when no loop runs.
  nb::object bridge = nb::module_::import_("nixl_connect._asyncio").attr("bridge_of")(loop);
  latest.loop = own(checked(PyWeakref_NewRef(loop.ptr(), nullptr)));
  latest.bridge = own(checked(PyWeakref_NewRef(bridge.ptr(), nullptr)));
  return {std::move(loop), std::move(bridge)};
}

/// A coroutine that waits for an operation's milestone.
class Wait {
 public:
  Wait(nb::object operation, nb::object core, int milestone)
      : operation_(std::move(operation)),
        core_(std::move(core)),
        connection_(&nb::cast<const Connection&>(core_)),
        milestone_(static_cast<Milestone>(milestone)) {}
  Wait(const Wait&) = delete;
  Wait& operator=(const Wait&) = delete;
  ~Wait() {
    if (stage_ == Stage::fresh) warn_of_nobody("coroutine 'wait_for_completion'");
    stop();
  }

  Stage stage() const { return stage_; }

  bool begin() {
    if (connection_->reached(milestone_)) return false;
    auto [loop, bridge] = current();
    Bridge& its = nb::cast<Bridge&>(bridge);
    nb::object future = checked(call_method(loop, methods().create_future));
    nb::object iterator = checked(call_method(future, methods().await));
    token_ = its.waiting.add(std::move(future));
    bridge_ = std::move(bridge);
    if (!connection_->notify(milestone_, its.queue, token_)) return false;
    future_ = std::move(iterator);
    stage_ = Stage::waiting;
    return true;
  }

  PySendResult resume(PyObject* value, PyObject** result) {
    const PySendResult sent = PyIter_Send(future_.ptr(), value, result);
    if (sent == PYGEN_NEXT) return sent;
    stop();
    if (sent == PYGEN_ERROR) return sent;
    Py_CLEAR(*result);
    return end(result);
  }

  PySendResult end(PyObject** result) {
    stop();
    if (connection_->status() == OperationStatus::errored) {
      PyObject* raised = call_method(operation_, methods().raise_failure);
      if (raised == nullptr) return PYGEN_ERROR;
      Py_DECREF(raised);
    }
    *result = Py_NewRef(Py_None);
    return PYGEN_RETURN;
  }

  /// As a coroutine's.
  nb::object raise(nb::args thrown) {
    const nb::object future = future_;
    stop();
    if (future.is_valid()) return nb::borrow(future.attr("throw")(*thrown));
    throw_into_nobody(thrown);
  }

  /// Nobody waits any more.
  void stop() {
    stage_ = Stage::ended;
    future_.reset();
    if (!bridge_.is_valid()) return;
    const nb::object held = std::exchange(bridge_, nb::object());
    Bridge& bridge = nb::cast<Bridge&>(held);
    if (bridge.waiting.remove(token_).is_valid()) connection_->forget(*bridge.queue, token_);
  }

  int visit(visitproc visit, void* arg) const {
    Py_VISIT(operation_.ptr());
    Py_VISIT(core_.ptr());
    Py_VISIT(bridge_.ptr());
    Py_VISIT(future_.ptr());
    return 0;
  }

 private:
  nb::object operation_;
  nb::object core_;
  const Connection* connection_;
  Milestone milestone_;
  Stage stage_ = Stage::fresh;
  nb::object bridge_;
  std::uint64_t token_ = 0;
  /// Its iterator, while this waits.
  nb::object future_;
};

template <typename T>
const T* made(PyObject* self) {
  return nb::inst_ready(self) ? nb::inst_ptr<T>(self) : nullptr;
}

int visit_bridge(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  const Bridge* bridge = made<Bridge>(self);
  return bridge == nullptr ? 0 : bridge->waiting.visit(visit, arg);
}

int clear_bridge(PyObject* self) {
  if (nb::inst_ready(self)) nb::inst_ptr<Bridge>(self)->waiting.clear();
  return 0;
}

PyType_Slot bridge_slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(visit_bridge)},
                              {Py_tp_clear, reinterpret_cast<void*>(clear_bridge)},
                              {0, nullptr}};

}  // namespace

nb::object wait_for(nb::handle operation, nb::handle core, Milestone milestone) {
  return nb::cast(new Wait(nb::borrow(operation), nb::borrow(core), static_cast<int>(milestone)),
                  nb::rv_policy::take_ownership);
}

void init_bridge(nb::module_& m) {
  methods();

  nb::class_<Bridge>(m, "Bridge", nb::type_slots(bridge_slots), nb::is_weak_referenceable(),
                     "One event loop's completion queue, and the futures that wait on it.")
      .def(nb::init<>())
      .def(
          "fileno", [](const Bridge& bridge) { return bridge.queue->fd(); },
          "The descriptor: readable while there is something to drain.")
      .def("drain", &Bridge::drain, "Sets the futures whose tokens have arrived.")
      .def_ro("queue", &Bridge::queue)
      .def(
          "add",
          [](Bridge& bridge, nb::object future) { return bridge.waiting.add(std::move(future)); },
          nb::arg("future"), "The token that sets it.")
      .def(
          "remove",
          [](Bridge& bridge, std::uint64_t token) {
            return bridge.waiting.remove(token).is_valid();
          },
          nb::arg("token"), "Whether its future was still waited for.");

  Coroutine<Wait>::define(
      m, "Wait", "class Wait(collections.abc.Coroutine[typing.Any, typing.Any, None])",
      "A coroutine that ends at an operation's milestone, and raises its failure.")
      .def(nb::init<nb::object, nb::object, int>(), nb::arg("operation"), nb::arg("core"),
           nb::arg("milestone"));
}

}  // namespace nixl_connect::python
