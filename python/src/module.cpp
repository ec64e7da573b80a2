#include "module.h"

NB_MODULE(_core, m) {
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
  init_connection(m);
  init_connector(m);
}
