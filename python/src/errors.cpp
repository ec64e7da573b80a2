#include "module.h"

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
