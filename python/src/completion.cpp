#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include "module.h"

namespace nixl_connect::python {

void init_completion(nb::module_& m) {
  nb::class_<CompletionQueue>(m, "CompletionQueue",
                              "Tokens of what has happened, and a descriptor to poll for them.")
      .def(nb::new_([] {
        auto queue = CompletionQueue::create();
        watch_with(queue);
        return queue;
      }))
      .def("fileno", &CompletionQueue::fd, "The descriptor: readable while there are tokens.")
      .def(
          "drain",
          [](CompletionQueue& queue, nb::typed<nb::list, std::uint64_t> into) {
            release_abandoned();
            std::vector<std::uint64_t> tokens;
            queue.drain(tokens);
            for (const std::uint64_t token : tokens) into.append(token);
          },
          nb::arg("into"), "Appends the tokens that have arrived.");
}

}  // namespace nixl_connect::python
