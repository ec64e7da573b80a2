#include "module.h"

/// The module, but for its entry.
NB_MODULE(_core_of_one_interpreter, m) {
  using namespace nixl_connect::python;
  namespace nb = nanobind;
  m.doc() = "The C++ core of nixl_connect. Private: use the package's own names.";
  m.def("set_leak_warnings", &nb::set_leak_warnings, nb::arg("enabled"),
        "Whether nanobind says at the interpreter's exit what has not been released.");
  m.def("version", [] { return NIXL_CONNECT_VERSION; }, "The package's.");
  init_errors(m);
  init_completion(m);
  init_descriptor(m);
  init_metadata(m);
  init_fence(m);
  init_inspect(m);
  init_connection(m);
  init_bridge(m);
  init_connector(m);
  init_start(m);
}

/// A second interpreter's module would take the place of the first one's types, before nanobind
/// lets it say anything; Python before 3.12 does not refuse it.
extern "C" NB_EXPORT PyObject* PyInit__core() {
  // The main one's number; its address is not in Python's stable interface.
  if (PyInterpreterState_GetID(PyInterpreterState_Get()) != 0) {
    PyErr_SetString(PyExc_ImportError,
                    "nixl_connect: expected the main interpreter, got a subinterpreter");
    return nullptr;
  }
  return PyInit__core_of_one_interpreter();
}
