#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <string>
#include <utility>

#include "module.h"

namespace nixl_connect::python {

namespace {

/// How often a blocking wait asks whether a signal (Ctrl-C) has come for Python. The
/// milestone itself ends the wait at once.
constexpr std::chrono::milliseconds kSignalCheck{50};

bool wait(const Connection& connection, int milestone, std::optional<double> timeout) {
  using Clock = std::chrono::steady_clock;
  const auto target = static_cast<Milestone>(milestone);
  std::optional<Clock::time_point> deadline;
  if (timeout) deadline = Clock::now() + from_seconds(*timeout);
  while (!connection.reached(target)) {
    std::chrono::nanoseconds slice = kSignalCheck;
    if (deadline) {
      slice = std::min<std::chrono::nanoseconds>(slice, *deadline - Clock::now());
      if (slice.count() <= 0) return false;
    }
    {
      const Unlocked unlocked;
      connection.wait(target, slice);
    }
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
  }
  return true;
}

std::optional<std::pair<std::string, std::string>> failure(const Connection& connection) {
  auto failure = connection.failure();
  if (!failure) return std::nullopt;
  return std::pair{std::string(to_string(failure->code)), std::move(failure->message)};
}

}  // namespace

void init_connection(nb::module_& m) {
  m.attr("READY") = static_cast<int>(Milestone::ready);
  m.attr("ENDED") = static_cast<int>(Milestone::ended);
  m.attr("RELEASED") = static_cast<int>(Milestone::released);

  nb::class_<Connection>(m, "Connection", "The core's side of one operation.")
      .def_prop_ro("name", &Connection::name)
      .def_prop_ro("notification_key", &Connection::notification_key)
      .def_prop_ro("remote_name", &Connection::remote_name)
      .def_prop_ro("status", [](const Connection& c) { return static_cast<int>(c.status()); })
      .def_prop_ro("failure", &failure, "(code, message), or None.")
      .def(
          "reached",
          [](const Connection& c, int milestone) {
            return c.reached(static_cast<Milestone>(milestone));
          },
          nb::arg("milestone"))
      .def(
          "nixl_metadata",
          [](const Connection& c, bool hex) {
            const auto encoding = hex ? MetadataEncoding::hex : MetadataEncoding::base64;
            wait(c, static_cast<int>(Milestone::ready), std::nullopt);
            return c.nixl_metadata(encoding);
          },
          nb::arg("hex"), "What a passive operation offers; waits until it is registered.")
      .def(
          "draft",
          [](const Connection& c, bool hex, std::size_t count) {
            const auto encoding = hex ? MetadataEncoding::hex : MetadataEncoding::base64;
            const UnlockedWhen unlocked(count >= kManyDescriptors || !c.reached(Milestone::ready));
            return c.draft(encoding);
          },
          nb::arg("hex"), nb::arg("count"),
          "What a passive operation of so many pieces is about to send; waits until it is "
          "registered.")
      .def(
          "wire",
          [](const Connection& c, std::size_t count) {
            const std::string bytes = [&] {
              const UnlockedWhen unlocked(count >= kManyDescriptors ||
                                          !c.reached(Milestone::ready));
              return c.draft_bytes();
            }();
            return nb::bytes(bytes.data(), bytes.size());
          },
          nb::arg("count"), "The draft as bytes.")
      .def(
          "offers",
          [](const Connection& c, nb::handle local) { return are_as_offered(local, c.offered()); },
          nb::arg("local_descriptors"),
          "Whether descriptors are as they were when a passive operation was made of them.")
      .def_prop_ro(
          "offered",
          [](const Connection& c) {
            return c.reached(Milestone::ready) && c.status() != OperationStatus::errored;
          },
          "Whether a passive operation's metadata can be had, and it has not failed.")
      .def(
          "share",
          [](const Connection& c) {
            const UnlockedWhen unlocked(!c.reached(Milestone::ready));
            c.share();
          },
          "A peer may have the draft from now on.")
      .def("wait", &wait, nb::arg("milestone"), nb::arg("timeout").none(),
           "Blocks until the milestone, or for so many seconds; returns whether it came.")
      .def(
          "notify",
          [](const Connection& c, int milestone, std::shared_ptr<CompletionQueue> queue,
             std::uint64_t token) {
            return c.notify(static_cast<Milestone>(milestone), std::move(queue), token);
          },
          nb::arg("milestone"), nb::arg("queue"), nb::arg("token"),
          "Has the token pushed at the milestone; False when that has passed.")
      .def_prop_ro("readers_done", &Connection::readers_done)
      .def_prop_ro("readers_failed", &Connection::readers_failed)
      .def("notify_readers", &Connection::notify_readers, nb::arg("count"), nb::arg("queue"),
           nb::arg("token"), "Has the token pushed when so many have read, or it has ended.")
      .def(
          "forget",
          [](const Connection& c, const CompletionQueue& queue, std::uint64_t token) {
            c.forget(queue, token);
          },
          nb::arg("queue"), nb::arg("token"))
      .def("cancel", &Connection::cancel);
}

}  // namespace nixl_connect::python
