#include <nanobind/stl/string.h>

#include "module.h"

namespace nixl_connect::python {

void init_metadata(nb::module_& m) {
  m.def(
      "encode_nixl_metadata",
      [](nb::bytes blob, bool hex) {
        return encode_nixl_metadata({blob.c_str(), blob.size()},
                                    hex ? MetadataEncoding::hex : MetadataEncoding::base64);
      },
      nb::arg("blob"), nb::arg("hex"), "The text of a NIXL blob, as it travels.");
  m.def(
      "decode_nixl_metadata",
      [](const std::string& text) {
        const std::string blob = decode_nixl_metadata(text);
        return nb::bytes(blob.data(), blob.size());
      },
      nb::arg("text"), "The NIXL blob in a text, bounded in size.");
  m.def(
      "agent_name_of", [](nb::bytes blob) { return agent_name_of({blob.c_str(), blob.size()}); },
      nb::arg("blob"), "The agent's name in a NIXL blob, which is checked from end to end.");
}

}  // namespace nixl_connect::python
