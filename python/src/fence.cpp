#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>

#include "module.h"

namespace nixl_connect::python {

namespace {

/// A fence that a thread of Python's opens.
class Gate {
 public:
  PythonFence fence() const {
    return {[state = state_] {
      if (!state->open.load(std::memory_order_acquire)) return false;
      if (!state->failure.empty()) throw std::runtime_error(state->failure);
      return true;
    }};
  }

  void open(std::optional<std::string> failure) {
    state_->failure = std::move(failure).value_or("");
    state_->open.store(true, std::memory_order_release);
  }

 private:
  struct State {
    std::atomic<bool> open{false};
    /// Written before it is opened.
    std::string failure;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace

void init_fence(nb::module_& m) {
  nb::class_<PythonFence>(m, "Fence", "What must have happened before an operation may begin.");

  nb::class_<Gate>(m, "Gate", "A fence that is opened once, by any thread.")
      .def(nb::init<>())
      .def("fence", &Gate::fence)
      .def("open", &Gate::open, nb::arg("failure").none() = nb::none(),
           "Lets operations pass; with a failure, makes them fail.");

  m.def(
      "after_cuda_stream",
      [](std::uint32_t device, std::uintptr_t stream) -> std::optional<PythonFence> {
        // A driver that makes its first context takes its time.
        const Unlocked unlocked;
        Fence fence = after_cuda_stream(
            device, reinterpret_cast<void*>(stream));  // NOLINT: Python has handles as numbers
        if (fence == nullptr) return std::nullopt;
        return PythonFence{std::move(fence)};
      },
      nb::arg("device"), nb::arg("stream"),
      "The work that the stream has been given so far; None when it is done.");
}

}  // namespace nixl_connect::python
