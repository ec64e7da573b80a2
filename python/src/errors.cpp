#include <new>
#include <string>

#include "coroutine.h"

namespace nixl_connect::python {

namespace {

/// The one place where the core's errors become Python's: `nixl_connect.errors` has a class
/// for each code.
void raise(const Error& error) {
  // What a signal's handler has raised while the call waited is what its caller hears of.
  if (PyErr_Occurred() != nullptr) return;
  try {
    nb::object exception = nb::module_::import_(kErrorsModule)
                               .attr("from_core")(to_string(error.code()), error.what());
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
  } catch (nb::python_error& raised) {
    // Making it runs Python code, where a pending signal's handler raises.
    raised.restore();
  }
}

}  // namespace

void set_error_of_exception() {
  try {
    throw;
  } catch (nb::python_error& error) {
    error.restore();
  } catch (const Error& error) {
    raise(error);
  } catch (const nb::builtin_exception& error) {
    const bool is_value = error.type() == nb::exception_type::value_error;
    PyErr_SetString(is_value ? PyExc_ValueError : PyExc_TypeError, error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
}

void warn_of_nobody(const char* what) {
  const nb::error_scope kept;
  const std::string text = std::string(what) + " was never awaited";
  if (PyErr_WarnEx(PyExc_RuntimeWarning, text.c_str(), 1) < 0) PyErr_WriteUnraisable(nullptr);
}

void throw_into_nobody(const nb::args& thrown) {
  const bool has_value = thrown.size() > 1 && !thrown[1].is_none();
  const nb::object value = has_value ? nb::borrow(thrown[1]) : nb::borrow(thrown[0]);
  if (PyExceptionInstance_Check(value.ptr())) {
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(value.ptr())), value.ptr());
  } else {
    PyErr_SetObject(thrown[0].ptr(), thrown.size() > 1 ? value.ptr() : nullptr);
  }
  throw nb::python_error();
}

void init_errors(nb::module_&) {
  nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
    try {
      std::rethrow_exception(pointer);
    } catch (const Error& error) {
      raise(error);
    }
  });
}

}  // namespace nixl_connect::python
