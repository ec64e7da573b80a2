#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

/// A stand-in for `libnixl_capi.so` that moves bytes within the process and fails when told to.
///
/// It has the C functions that the core uses and behaves as NIXL 1.5.1 does where that matters:
/// a region is loaded once and for all; the same region with another remote key is refused, and
/// the refusal erases the peer and burns its name; of overlapping regions any may be picked;
/// without progress on both sides nothing arrives; a transfer's notification is sent when its
/// end is asked for; a dead peer fails what is posted to it.
///
/// Faults are scripted for the whole library. Thread safety: every function may be called from
/// any thread.
namespace fake_nixl {

/// Forgets all faults and counts. Agents that are alive stay.
void reset();

/// The call of this name (`"register_mem"`) returns `status`, `times` times, after `after`
/// calls that go well.
void fail(const std::string& function, int status, int times = 1, int after = 0);
/// The call of this name takes so much longer.
void delay(const std::string& function, int microseconds);

/// How often a transfer's status is asked for until it ends. The bytes are copied at the end.
void end_transfers_after(int polls);
/// Transfers do not end until this is taken back.
void hold_transfers(bool hold);
/// A transfer that is released while it runs still writes its bytes at a later call, as
/// hardware may; otherwise it is stopped.
void write_late(bool late);

/// Called by each call of an agent, with its name, on its thread; null for nothing.
void watch(std::function<void(const std::string& function)> watcher);

/// The next notifications are lost, after so many that are not.
void drop_notifications(int count, int after = 0);
/// Notifications are handed over in the reverse order.
void reverse_notifications(bool reverse);
/// Each notification arrives twice.
void repeat_notifications(bool repeat);
/// An agent gets a message from nobody that it knows.
void inject_notification(const std::string& agent_prefix, const std::string& message);

/// Each registration gets a remote key of its own, as on RDMA; otherwise all keys are the same.
void rotate_keys(bool rotate);
/// Remote keys are so many bytes longer.
void pad_keys(std::size_t bytes);

/// The agent dies without a word: what is posted to it fails from now on.
void kill(const std::string& agent_prefix);
/// The agent stops answering: what is posted to it never ends.
void stop(const std::string& agent_prefix, bool stopped);

struct Counts {
  std::size_t agents = 0;
  std::size_t registered = 0;    ///< Regions, of all agents.
  std::size_t loaded_peers = 0;  ///< Of all agents.
  std::size_t loaded_regions = 0;
  std::size_t requests = 0;       ///< Transfer requests that are not destroyed.
  std::size_t notifications = 0;  ///< Not handed over yet.
  std::uint64_t register_calls = 0;
  std::uint64_t notifications_sent = 0;
  std::uint64_t wrong_thread_calls = 0;  ///< Of an agent by another thread than its maker's.
};
Counts counts();

}  // namespace fake_nixl

/// `fake_nixl::fail`, once, for Python.
extern "C" void fake_nixl_fail(const char* function, int status);
