// How the package's operations begin: a Python object, and the core's connection in it.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <utility>

#include "coroutine.h"

namespace nixl_connect::python {

namespace {

/// Names of attributes and what stands for an argument that was not given, made with the module:
/// without a GIL, a thread that waits for another one to make a static keeps Python's collector
/// from stopping it.
struct Names {
  PyObject* core = PyUnicode_InternFromString("_core");
  PyObject* connector = PyUnicode_InternFromString("_connector");
  PyObject* local = PyUnicode_InternFromString("_local_desc_list");
  PyObject* kind = PyUnicode_InternFromString("_kind");
  PyObject* auth_key = PyUnicode_InternFromString("_auth_key");
  PyObject* tracer = PyUnicode_InternFromString("_tracer");
  nb::object default_stream = default_of("STREAM");
  nb::object default_timeout = default_of("TIMEOUT");

  static nb::object default_of(const char* argument) {
    return nb::module_::import_("nixl_connect._default").attr("Default").attr(argument);
  }
};

const Names& names() {
  static const Names& made = *new Names;
  return made;
}

/// A function of the package, for what is rare.
nb::object function(const char* module, const char* name) {
  return nb::module_::import_(module).attr(name);
}

nb::object attribute(nb::handle object, PyObject* name) {
  return checked(PyObject_GetAttr(object.ptr(), name));
}

void set_attribute(nb::handle object, PyObject* name, nb::handle value) {
  if (PyObject_SetAttr(object.ptr(), name, value.ptr()) < 0) throw nb::python_error();
}

/// Nothing for the connector's default, less than nothing for no limit.
std::optional<std::chrono::nanoseconds> limit_of(nb::handle timeout) {
  if (timeout.is(names().default_timeout)) return std::nullopt;
  const nb::object seconds = function("nixl_connect._arguments", "core_timeout")(timeout);
  return optional_seconds(nb::cast<std::optional<double>>(seconds));
}

/// How many peers an offer is for.
std::uint32_t places_of(nb::handle places, bool reads) {
  if (places.is_none()) return kAnyNumber;
  if (PyLong_CheckExact(places.ptr())) {
    int too_large = 0;
    const long number = PyLong_AsLongAndOverflow(places.ptr(), &too_large);
    if (too_large == 0 && number >= 1 && number <= static_cast<long>(kAnyNumber)) {
      return static_cast<std::uint32_t>(number);
    }
  }
  const nb::object check = function("nixl_connect._arguments", "check_count");
  return nb::cast<std::uint32_t>(check(places, reads ? "readers" : "writers", 1, kAnyNumber));
}

/// The model of metadata itself, of which more is known than of what it is derived to.
bool is_model(nb::handle remote) {
  static std::atomic<PyObject*> known{nullptr};
  PyObject* model = known.load(std::memory_order_acquire);
  if (model == nullptr) {
    model = function("nixl_connect.metadata", "RdmaMetadata").release().ptr();
    known.store(model, std::memory_order_release);
  }
  return reinterpret_cast<PyObject*>(Py_TYPE(remote.ptr())) == model;
}

/// The operation has them then, and nobody else.
std::vector<Fence> take(nb::handle after) {
  std::vector<Fence> fences;
  for (nb::handle fence : nb::borrow<nb::tuple>(after)) {
    fences.push_back(std::move(nb::cast<PythonFence&>(fence).passed));
  }
  return fences;
}

/// An operation in the making: the Python object, and what it is made of.
struct Making {
  nb::handle operation;
  nb::handle connector;
  nb::handle local;
  nb::handle after;

  bool reads() const {
    const nb::object kind = attribute(operation, names().kind);
    return nb::cast<int>(kind) == static_cast<int>(OperationKind::read);
  }

  /// `begin` makes the core's connection of the core's connector, descriptors and fences; other
  /// Python threads run meanwhile when that is much to do, for many descriptors or else.
  template <typename Begin>
  nb::object make(bool is_written, bool much, Begin begin) const {
    const nb::object core = attribute(connector, names().core);
    auto& its = nb::cast<PythonConnector&>(core);
    release_abandoned();
    auto descriptors = local_descriptors(local, is_written);
    auto waits_for = take(after);
    auto begun = [&] {
      const UnlockedWhen unlocked(much || descriptors.size() >= kManyDescriptors);
      return begin(its, std::move(descriptors), std::move(waits_for));
    }();
    nb::object made = nb::cast(std::move(begun));
    set_attribute(operation, names().core, made);
    set_attribute(operation, names().connector, connector);
    set_attribute(operation, names().local, local);
    return made;
  }
};

nb::object start_passive(const Making& making, nb::handle timeout, nb::handle places) {
  const bool reads = making.reads();
  const auto limit = limit_of(timeout);
  const std::uint32_t number = places_of(places, reads);
  const auto create = reads ? &Connector::create_readable : &Connector::create_writable;
  return making.make(!reads, false, [&](Connector& connector, auto descriptors, auto after) {
    return (connector.*create)(std::move(descriptors), limit, std::move(after), number);
  });
}

/// Of metadata, or its bytes.
template <typename Remote>
nb::object begin_active(const Making& making, bool reads,
                        std::optional<std::chrono::nanoseconds> limit, const Remote& remote,
                        bool much) {
  return making.make(reads, much, [&](Connector& connector, auto descriptors, auto after) {
    return reads ? connector.begin_read(remote, std::move(descriptors), limit, std::move(after))
                 : connector.begin_write(std::move(descriptors), remote, limit, std::move(after));
  });
}

nb::object start_active(const Making& making, nb::handle timeout, nb::handle remote,
                        nb::handle reach) {
  const bool reads = making.reads();
  const auto limit = limit_of(timeout);
  nb::object received = nb::borrow(remote);
  const bool plain = reach.is_none() && (PyBytes_CheckExact(remote.ptr()) || is_model(remote)) &&
                     attribute(making.connector, names().auth_key).is_none();
  if (!plain) {
    received = function("nixl_connect._sides", "received_from")(making.connector, remote, reach,
                                                                making.local);
  }
  if (PyBytes_Check(received.ptr())) {
    const auto bytes = nb::borrow<nb::bytes>(received);
    const std::string_view all(bytes.c_str(), bytes.size());
    return begin_active(making, reads, limit, all, bytes.size() >= kManyBytes);
  }
  const RemoteMetadata metadata(received);
  return begin_active(making, reads, limit, *metadata, false);
}

/// Its arguments are the timeout and, of a passive operation, for how many peers; of an active one
/// the peer's metadata, and how to reach it.
bool is_passive(const nb::tuple& arguments) { return arguments.size() == 2; }

nb::object start(const Making& making, const nb::tuple& arguments) {
  return is_passive(arguments) ? start_passive(making, arguments[0], arguments[1])
                               : start_active(making, arguments[0], arguments[1], arguments[2]);
}

/// Whether its metadata can be had, and it has not failed.
bool is_offered(const Connection& connection) {
  return connection.reached(Milestone::ready) && connection.status() != OperationStatus::errored;
}

/// A coroutine that makes an operation: at once where that is quick and its connector has started,
/// else as the connector's own coroutine does.
class Start {
 public:
  Start(nb::object connector, nb::object type, nb::object otherwise, nb::object local,
        const nb::object& stream, nb::tuple arguments)
      : connector_(std::move(connector)),
        type_(std::move(type)),
        otherwise_(std::move(otherwise)),
        local_(std::move(local)),
        arguments_(std::move(arguments)) {
    const LocalDescriptor* one = nullptr;
    const bool waits_for_nothing = stream.is(names().default_stream) &&
                                   nb::try_cast(local_, one, false) && one != nullptr &&
                                   one->memory.device.kind == DeviceKind::host;
    if (waits_for_nothing) {
      after_ = nb::tuple();
    } else {
      // What the streams have been given so far is what they have at this call.
      const nb::object prepared = function("nixl_connect._sides", "prepared")(local_, stream);
      local_ = prepared[0];
      after_ = prepared[1];
      is_large_ = !nb::isinstance<LocalDescriptor>(local_) && nb::len(local_) >= kManyDescriptors;
    }
  }
  Start(const Start&) = delete;
  Start& operator=(const Start&) = delete;
  ~Start() {
    if (stage_ == Stage::fresh) warn_of_nobody("coroutine that makes an operation");
  }

  Stage stage() const { return stage_; }

  bool begin() {
    stage_ = Stage::waiting;
    if (is_large_ || !nb::cast<PythonConnector&>(attribute(connector_, names().core)).started() ||
        !attribute(connector_, names().tracer).is_none()) {
      awaited_ = otherwise_(type_, local_, after_, *arguments_);
      return true;
    }
    const auto make = reinterpret_cast<newfunc>(
        PyType_GetSlot(reinterpret_cast<PyTypeObject*>(type_.ptr()), Py_tp_new));
    operation_ =
        checked(make(reinterpret_cast<PyTypeObject*>(type_.ptr()), nb::tuple().ptr(), nullptr));
    const nb::object core = start({operation_, connector_, local_, after_}, arguments_);
    const auto& connection = nb::cast<const Connection&>(core);
    if (!is_passive(arguments_) || is_offered(connection)) return false;
    awaited_ = wait_for(operation_, core, Milestone::ready);
    return true;
  }

  PySendResult resume(PyObject* value, PyObject** result) {
    const PySendResult sent = PyIter_Send(awaited_.ptr(), value, result);
    if (sent == PYGEN_NEXT) return sent;
    // It has ended: there is nothing to close.
    awaited_.reset();
    if (sent == PYGEN_RETURN && operation_.is_valid()) {
      Py_CLEAR(*result);
      return end(result);
    }
    stop();
    return sent;
  }

  PySendResult end(PyObject** result) {
    *result = operation_.release().ptr();
    stop();
    return PYGEN_RETURN;
  }

  nb::object raise(nb::args thrown) {
    const nb::object awaited = awaited_;
    if (awaited.is_valid()) {
      try {
        return nb::borrow(awaited.attr("throw")(*thrown));
      } catch (nb::python_error&) {
        awaited_.reset();
        stop();
        throw;
      }
    }
    stop();
    throw_into_nobody(thrown);
  }

  void stop() {
    const nb::error_scope kept;
    stage_ = Stage::ended;
    const nb::object awaited = std::exchange(awaited_, nb::object());
    for (nb::object* held : {&operation_, &connector_, &type_, &otherwise_, &local_}) held->reset();
    after_.reset();
    arguments_.reset();
    if (awaited.is_valid()) awaited.attr("close")();
  }

  int visit(visitproc visit, void* arg) const {
    Py_VISIT(connector_.ptr());
    Py_VISIT(type_.ptr());
    Py_VISIT(otherwise_.ptr());
    Py_VISIT(local_.ptr());
    Py_VISIT(after_.ptr());
    Py_VISIT(arguments_.ptr());
    Py_VISIT(operation_.ptr());
    Py_VISIT(awaited_.ptr());
    return 0;
  }

 private:
  nb::object connector_;
  nb::object type_;
  /// The connector's coroutine function for all but the quick.
  nb::object otherwise_;
  nb::object local_;
  nb::object after_;
  nb::tuple arguments_;
  bool is_large_ = false;
  Stage stage_ = Stage::fresh;
  nb::object operation_;
  nb::object awaited_;
};

}  // namespace

void init_start(nb::module_& m) {
  names();

  m.def(
      "start",
      [](nb::handle operation, nb::handle connector, nb::handle local, nb::handle after,
         const nb::args& arguments) {
        start({operation, connector, local, after}, nb::borrow<nb::tuple>(arguments));
      },
      nb::arg("operation"), nb::arg("connector"), nb::arg("local_descriptors").none(),
      nb::arg("after"), nb::arg("arguments"),
      "Gives an operation what it is made of, and begins it: with its timeout, and for how many "
      "peers, or the peer's metadata and how to reach it.");

  Coroutine<Start>::define(
      m, "Start", "class Start(collections.abc.Coroutine[typing.Any, typing.Any, typing.Any])",
      "A coroutine that makes an operation.")
      .def(nb::init<nb::object, nb::object, nb::object, nb::object, nb::object, nb::tuple>(),
           nb::sig("def __init__(self, connector: object, type: type, otherwise: object, "
                   "local_descriptors: object, stream: object, "
                   "arguments: tuple[object, ...]) -> None"),
           nb::arg("connector"), nb::arg("type"), nb::arg("otherwise"),
           nb::arg("local_descriptors").none(), nb::arg("stream").none(), nb::arg("arguments"));
}

}  // namespace nixl_connect::python
