#pragma once

#include "module.h"

namespace nixl_connect::python {

/// The result of a call into Python; throws what it has raised.
inline nb::object checked(PyObject* result) {
  if (result == nullptr) throw nb::python_error();
  return nb::steal(result);
}

/// Says that a coroutine is collected which nobody has awaited.
void warn_of_nobody(const char* what);

/// As the `throw` of a coroutine which is not waiting.
[[noreturn]] void throw_into_nobody(const nb::args& thrown);

/// How far a coroutine is.
enum class Stage { fresh, waiting, ended };

/// What Python asks of a coroutine whose class is `T`, which has
///
/// - `Stage stage() const`,
/// - `bool begin()`: whether there is something to wait for; may throw,
/// - `PySendResult resume(PyObject* value, PyObject** result)`: to go on with waiting,
/// - `PySendResult end(PyObject** result)`: its result, or its error,
/// - `nb::object raise(nb::args thrown)`, its `throw`,
/// - `void stop()`: nobody waits any more,
/// - `int visit(visitproc, void*) const`, for the collector.
template <typename T>
struct Coroutine {
  static PyObject* self_of(PyObject* self) { return Py_NewRef(self); }

  static PySendResult send(PyObject* self, PyObject* value, PyObject** result) {
    T& coroutine = *nb::inst_ptr<T>(self);
    *result = nullptr;
    if (coroutine.stage() == Stage::ended) {
      PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
      return PYGEN_ERROR;
    }
    try {
      if (coroutine.stage() == Stage::fresh && !coroutine.begin()) return coroutine.end(result);
    } catch (...) {
      coroutine.stop();
      set_error_of_exception();
      return PYGEN_ERROR;
    }
    return coroutine.resume(value, result);
  }

  /// As `send` in Python, which ends with an exception.
  static PyObject* step(PyObject* self, PyObject* value) {
    PyObject* result = nullptr;
    if (send(self, value, &result) != PYGEN_RETURN) return result;
    // Not by its value alone, which could be a tuple or an exception.
    const nb::object returned = nb::steal(result);
    const nb::object end = nb::borrow(PyExc_StopIteration)(returned);
    PyErr_SetObject(PyExc_StopIteration, end.ptr());
    return nullptr;
  }

  static PyObject* next(PyObject* self) { return step(self, Py_None); }

  static int traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    return nb::inst_ready(self) ? nb::inst_ptr<T>(self)->visit(visit, arg) : 0;
  }

  static int clear(PyObject* self) {
    if (nb::inst_ready(self)) nb::inst_ptr<T>(self)->stop();
    return 0;
  }

  static inline PyType_Slot slots[] = {{Py_am_await, reinterpret_cast<void*>(self_of)},
                                       {Py_am_send, reinterpret_cast<void*>(send)},
                                       {Py_tp_iternext, reinterpret_cast<void*>(next)},
                                       {Py_tp_traverse, reinterpret_cast<void*>(traverse)},
                                       {Py_tp_clear, reinterpret_cast<void*>(clear)},
                                       {0, nullptr}};

  static nb::class_<T> define(nb::module_& m, const char* name, const char* signature,
                              const char* doc) {
    return nb::class_<T>(m, name, nb::type_slots(slots), nb::sig(signature), doc)
        .def(
            "send",
            [](nb::handle self, nb::handle value) {
              return checked(step(self.ptr(), value.ptr()));
            },
            nb::arg("value").none())
        .def("throw", &T::raise)
        .def("close", &T::stop);
  }
};

}  // namespace nixl_connect::python
