#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "nixl_connect/nixl_connect.h"

namespace nixl_connect::python {

namespace nb = nanobind;

/// The name of the package that the errors and the connector are defined in.
inline constexpr const char* kErrorsModule = "nixl_connect.errors";

/// In a `catch`: the exception becomes Python's error, as at the end of a bound function.
void set_error_of_exception();

void init_bridge(nb::module_& m);
void init_completion(nb::module_& m);
void init_connection(nb::module_& m);
void init_connector(nb::module_& m);
void init_descriptor(nb::module_& m);
void init_errors(nb::module_& m);
void init_fence(nb::module_& m);
void init_inspect(nb::module_& m);
void init_metadata(nb::module_& m);
void init_start(nb::module_& m);

/// The Python object, kept alive for as long as the result or a copy of it lives. The last
/// copy may go on any thread, one that knows nothing of Python too: the object is then
/// released by the main thread, or by the next call into this module.
std::shared_ptr<const void> own(nb::handle object);
/// Releases what threads without Python have let go of. Cheap when there is nothing.
void release_abandoned();
/// This queue is drained by an event loop: it is woken when there is something to release.
void watch_with(const std::shared_ptr<CompletionQueue>& queue);

/// No Python object is released on this thread meanwhile: what its destructor does may need what
/// the core has locked.
class Deferred {
 public:
  Deferred();
  Deferred(const Deferred&) = delete;
  Deferred& operator=(const Deferred&) = delete;
  ~Deferred();
};

/// Lets other Python threads run while this one blocks. A daemon thread whose interpreter has ended
/// meanwhile never comes back: it sleeps until the process ends.
class Unlocked {
 public:
  Unlocked();
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;
  ~Unlocked();

  /// Has Python handle the signals that have come. Returns whether a handler has raised: that error
  /// is then set, and more important than what the call that was interrupted throws.
  bool signalled();

 private:
  void lock() noexcept;

  Deferred deferred_;
  PyThreadState* const state_;
};

/// Has the Python threads that wait run first.
void let_others_run();

/// From so many pieces of memory on, work on them would keep other Python threads, and so an event
/// loop, from running for longer than they should have to wait.
inline constexpr std::size_t kManyDescriptors = 4096;
/// And from so many bytes of metadata on.
inline constexpr std::size_t kManyBytes = 4096;

/// As `Unlocked` when there is much to do, and as `Deferred` when it is done at once.
class UnlockedWhen {
 public:
  explicit UnlockedWhen(bool much) {
    if (much) {
      unlocked_.emplace();
    } else {
      deferred_.emplace();
    }
  }

 private:
  std::optional<Unlocked> unlocked_;
  std::optional<Deferred> deferred_;
};

/// Calls `visit(item, index)` for each item of the list. Other Python threads run now and then when
/// it is long; what they do to the list does not matter.
template <typename Visit>
void for_each_item(const nb::list& list, Visit visit) {
  std::size_t index = 0;
  if (list.size() < kManyDescriptors) {
    for (nb::handle item : list) visit(item, index++);
    return;
  }
  const nb::tuple items(list);
  for (nb::handle item : items) {
    visit(item, index++);
    if (index % kManyDescriptors == 0) let_others_run();
  }
}

/// What `nixl_connect.Descriptor` adds to the core's.
struct LocalDescriptor {
  Descriptor memory;
  /// Whether a transfer may write to it; none until the system was asked.
  mutable std::atomic<std::optional<bool>> writable;
  /// Its owner can move it: Python's side asks, at each use, whether it has.
  bool movable = false;
  /// How many bytes there are, of which the descriptor may name fewer.
  std::size_t capacity = memory.size;

  bool is_writable() const;
  /// Whether its owner is known to have it where it was. If not, Python's side asks.
  bool has_stayed() const;
};

/// Many pieces of memory of one owner, on one device.
struct LocalDescriptorList {
  /// The first has the owner, for all: they are used together.
  std::vector<Descriptor> memory;
  /// Of all of them.
  std::size_t bytes = 0;
};

/// The core's descriptors of a Python list of them, of a `DescriptorList` or of a single one.
/// Raises `TypeError` and, where they must be writable and one is not, or where the memory has been
/// moved, `ValueError`.
std::vector<Descriptor> local_descriptors(nb::handle value, bool writable);

/// Whether the pieces are those that were offered.
bool are_as_offered(nb::handle value, const std::vector<RemoteDescriptor>& offered);

/// The core's form of a `RdmaMetadata` model. Throws `Error(rejected_metadata)` for values that no
/// validated model has.
RdmaMetadata metadata_of(nb::handle model);
/// The same of bytes.
RdmaMetadata metadata_of_bytes(const nb::bytes& bytes);

/// A fence, as Python hands it from the function that made it to the one operation that waits for
/// it.
struct PythonFence {
  Fence passed;
};

/// Closes without keeping other Python threads from running.
struct PythonConnector : Connector {
  using Connector::Connector;
  ~PythonConnector() {
    const Unlocked unlocked;
    close();
  }
};

/// What a peer sent: the core's own form as it is, and of bytes or a model one is made.
class RemoteMetadata {
 public:
  explicit RemoteMetadata(nb::handle remote) {
    if (PyBytes_Check(remote.ptr())) {
      made_ = metadata_of_bytes(nb::borrow<nb::bytes>(remote));
    } else if (!nb::try_cast(remote, given_, false) || given_ == nullptr) {
      made_ = metadata_of(remote);
    }
  }

  const RdmaMetadata& operator*() const { return given_ == nullptr ? *made_ : *given_; }
  const RdmaMetadata* operator->() const { return &**this; }

 private:
  const RdmaMetadata* given_ = nullptr;
  std::optional<RdmaMetadata> made_;
};

/// A coroutine that ends at an operation's milestone. Of the operation and its core.
nb::object wait_for(nb::handle operation, nb::handle core, Milestone milestone);

/// Seconds to the core's unit.
std::chrono::nanoseconds from_seconds(double seconds);
std::optional<std::chrono::nanoseconds> optional_seconds(std::optional<double> seconds);

}  // namespace nixl_connect::python
