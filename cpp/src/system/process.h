#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// As `getpid`, which is a system call, at the cost of a load. Thread safe, also after a `fork`.
pid_t this_process() noexcept;

/// Which process that is, among all that have had its number: a digest of when it began. Zero when
/// there is no such process, or none that may be seen. Thread safe.
std::uint32_t process_start(pid_t process) noexcept;

/// A digest of this machine, as it is since it booted, and of the numbers that processes have here:
/// where it is the same, a number means the same process. Thread safe.
std::uint32_t process_space() noexcept;

/// Whether this process was forked from another and has executed no program since: it began with
/// whatever the other one had in memory. False where it cannot be known. Thread safe.
bool is_forked() noexcept;

/// Whether this process has a thread of that name; true where it cannot be known. Thread safe.
bool has_thread(std::string_view name) noexcept;

/// A variable of the environment; empty when it is not set. Thread safe while nobody sets any.
std::string environment(const char* name);

/// Whether something else has had this thread's processor, though the thread wanted to go on, since
/// it asked last. Thread safe.
bool lost_processor() noexcept;

/// From now on nobody unloads this code, as part of a plug-in or by itself. Thread safe.
void stay_loaded() noexcept;

NIXL_CONNECT_NAMESPACE_END
