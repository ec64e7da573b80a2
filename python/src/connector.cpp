#include "nixl_connect/connector.h"

#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "module.h"

namespace nixl_connect::python {

namespace {

/// Other errors are thrown by calls.
bool can_end_operations(ErrorCode code) {
  using enum ErrorCode;
  constexpr std::array kThrown{invalid_argument, invalid_state, forked, nixl_not_found, cancelled};
  return std::find(kThrown.begin(), kThrown.end(), code) == kThrown.end();
}

double to_seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

nb::dict to_dict(const OperationStats& stats) {
  nb::dict result;
  result["complete"] = stats.complete;
  result["cancelled"] = stats.cancelled;
  result["errored"] = stats.errored;
  nb::dict failures;
  for (std::size_t i = 0; i < stats.failures.size(); ++i) {
    const auto code = static_cast<ErrorCode>(i);
    if (can_end_operations(code)) failures[to_string(code)] = stats.failures[i];
  }
  result["failures"] = failures;
  result["bytes"] = stats.bytes;
  result["total_latency"] = to_seconds(stats.total_latency);
  result["latency"] =
      nb::tuple(nb::cast(std::vector<std::uint64_t>(stats.latency.begin(), stats.latency.end())));
  return result;
}

/// To decode.
bool takes_long(const RdmaMetadata& metadata) {
  constexpr std::size_t kLongText = 16 * kManyDescriptors;
  return metadata.nixl_metadata.size() >= kLongText;
}

}  // namespace

std::chrono::nanoseconds from_seconds(double seconds) {
  // Longer than anybody waits, and still a number of nanoseconds.
  constexpr double kLongest = 1e9;
  if (std::isnan(seconds)) throw nb::value_error("timeout: expected seconds, got nan");
  return std::chrono::nanoseconds(
      static_cast<std::int64_t>(std::clamp(seconds, -1.0, kLongest) * 1e9));
}

std::optional<std::chrono::nanoseconds> optional_seconds(std::optional<double> seconds) {
  if (!seconds) return std::nullopt;
  return from_seconds(*seconds);
}

void init_connector(nb::module_& m) {
  nb::class_<Registration>(m, "Registration", "Memory registered by hand.")
      .def("reset", nb::overload_cast<>(&Registration::reset), nb::lock_self(), "Deregisters.");

  nb::class_<PythonConnector>(m, "Connector", nb::is_weak_referenceable(),
                              "The core's connector: one agent, one thread.")
      .def(
          "__init__",
          [](PythonConnector* self, std::string name, std::string backend,
             std::map<std::string, std::string> backend_parameters,
             std::optional<double> default_timeout, double linger, bool progress_thread,
             std::string nixl_library, std::vector<std::string> nixl_library_candidates,
             double spin, double max_pause, std::size_t engines, std::size_t inline_limit,
             std::optional<bool> foreign_peers, std::size_t max_linger_bytes) {
            ConnectorOptions options;
            options.name = std::move(name);
            options.backend = std::move(backend);
            options.backend_parameters = std::move(backend_parameters);
            options.default_timeout = optional_seconds(default_timeout);
            options.linger =
                std::chrono::duration_cast<std::chrono::milliseconds>(from_seconds(linger));
            options.progress_thread = progress_thread;
            options.engines = engines;
            options.inline_limit = inline_limit;
            options.foreign_peers = foreign_peers;
            options.max_linger_bytes = max_linger_bytes;
            options.nixl_library = std::move(nixl_library);
            options.nixl_library_candidates = std::move(nixl_library_candidates);
            using std::chrono::duration_cast;
            using std::chrono::microseconds;
            options.spin = duration_cast<microseconds>(from_seconds(spin));
            options.max_pause = duration_cast<microseconds>(from_seconds(max_pause));
            new (self) PythonConnector(std::move(options));
          },
          nb::kw_only(), nb::arg("name"), nb::arg("backend"), nb::arg("backend_parameters"),
          nb::arg("default_timeout").none(), nb::arg("linger"), nb::arg("progress_thread"),
          nb::arg("nixl_library"), nb::arg("nixl_library_candidates"), nb::arg("spin"),
          nb::arg("max_pause"), nb::arg("engines"), nb::arg("inline_limit"),
          nb::arg("foreign_peers").none(), nb::arg("max_linger_bytes"))
      .def("start", &PythonConnector::start, "Makes the agent, if that has not begun.")
      .def("notify_started", &PythonConnector::notify_started, nb::arg("queue"), nb::arg("token"))
      .def("check_started", &PythonConnector::check_started,
           "Whether the agent is made; raises why it could not be.")
      .def("wait_started",
           [](PythonConnector& connector) {
             Unlocked unlocked;
             connector.wait_started([&] { return unlocked.signalled(); });
           })
      .def_prop_ro("started", &PythonConnector::started)
      .def(
          "decline",
          [](PythonConnector& connector, nb::handle remote, std::string reason,
             std::optional<double> timeout) {
            const RemoteMetadata metadata(remote);
            const auto limit = optional_seconds(timeout);
            const UnlockedWhen unlocked(takes_long(*metadata));
            return connector.decline(*metadata, std::move(reason), limit);
          },
          nb::arg("remote_metadata"), nb::arg("reason"), nb::arg("timeout").none())
      .def(
          "connect",
          [](PythonConnector& connector, nb::handle remote, std::optional<double> timeout) {
            const RemoteMetadata metadata(remote);
            const auto limit = optional_seconds(timeout);
            const UnlockedWhen unlocked(takes_long(*metadata));
            return connector.connect(*metadata, limit);
          },
          nb::arg("remote_metadata"), nb::arg("timeout").none())
      .def(
          "register_memory",
          [](PythonConnector& connector, const LocalDescriptor& descriptor) {
            const Descriptor memory = descriptor.memory;
            Unlocked unlocked;
            return connector.register_memory(memory, [&] { return unlocked.signalled(); });
          },
          nb::arg("descriptor").lock())
      .def("next_connection_number", &PythonConnector::next_connection_number)
      .def("agent_metadata",
           [](PythonConnector& connector) {
             const std::string blob = [&] {
               Unlocked unlocked;
               return connector.agent_metadata([&] { return unlocked.signalled(); });
             }();
             return nb::bytes(blob.data(), blob.size());
           })
      .def(
          "stats",
          [](PythonConnector& connector) {
            release_abandoned();
            const ConnectorStats stats = [&] {
              const Unlocked unlocked;
              return connector.stats();
            }();
            nb::dict operations;
            operations["readable"] = to_dict(stats.readable);
            operations["writable"] = to_dict(stats.writable);
            operations["read"] = to_dict(stats.read);
            operations["write"] = to_dict(stats.write);
            nb::dict result;
            result["operations"] = operations;
            result["fenced"] = stats.fenced;
            result["waiting"] = stats.waiting;
            result["lingering"] = stats.lingering;
            result["lingering_bytes"] = stats.lingering_bytes;
            result["oldest_waiting"] = to_seconds(stats.oldest_waiting);
            result["in_flight"] = stats.in_flight;
            result["oldest_in_flight"] = to_seconds(stats.oldest_in_flight);
            result["registered_regions"] = stats.registered_regions;
            result["peers"] = stats.peers;
            result["notifications_matched"] = stats.notifications_matched;
            result["notifications_unknown"] = stats.notifications_unknown;
            result["notifications_sent"] = stats.notifications_sent;
            result["notifications_refused"] = stats.notifications_refused;
            result["engine_wakeups"] = stats.wakeups;
            result["engine_cpu_seconds"] = to_seconds(stats.cpu_time);
            return result;
          },
          nb::sig("def stats(self) -> dict[str, typing.Any]"),
          "What the connector has done and holds, by name.")
      .def("close",
           [](PythonConnector& connector) {
             {
               Unlocked unlocked;
               connector.close([&] { return unlocked.signalled(); });
             }
             if (PyErr_Occurred() != nullptr) throw nb::python_error();
             release_abandoned();
           })
      .def_prop_ro("nixl_library", &PythonConnector::nixl_library,
                   "Path of the library in use; empty before the agent is made.")
      .def_prop_ro("closed", &PythonConnector::closed);
}

}  // namespace nixl_connect::python
