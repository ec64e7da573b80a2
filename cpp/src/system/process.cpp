#include "system/process.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <utility>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

std::atomic<pid_t> known{0};

/// Children ask again. Before anything can call `this_process`, and so outside any `fork`.
[[maybe_unused]] const int registered =
    ::pthread_atfork(nullptr, nullptr, [] { known.store(0, std::memory_order_relaxed); });

/// The first bytes of a small file; none when it cannot be read.
template <std::size_t size>
std::string_view read_file(const char* path, std::array<char, size>& buffer) noexcept {
  const int file = ::open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return {};
  const ssize_t n = ::read(file, buffer.data(), buffer.size());
  ::close(file);
  return {buffer.data(), n > 0 ? static_cast<std::size_t>(n) : 0};
}

/// A field of `/proc/<pid>/stat`, counted from 1 as proc(5) does, from the third on; or nothing.
std::string_view field(std::string_view stat, int number) noexcept {
  // The second one, a name in parentheses, may hold anything.
  const auto name_ends = stat.rfind(") ");
  if (name_ends == stat.npos) return {};
  stat.remove_prefix(name_ends + 2);
  for (int i = 3; i < number; ++i) {
    const auto space = stat.find(' ');
    if (space == stat.npos) return {};
    stat.remove_prefix(space + 1);
  }
  return stat.substr(0, stat.find(' '));
}

/// FNV-1a.
std::uint32_t digest(std::string_view bytes, std::uint32_t sum = 2166136261u) noexcept {
  for (const char byte : bytes) sum = (sum ^ static_cast<unsigned char>(byte)) * 16777619u;
  return sum;
}

}  // namespace

pid_t this_process() noexcept {
  pid_t process = known.load(std::memory_order_relaxed);
  if (process == 0) {
    process = ::getpid();
    known.store(process, std::memory_order_relaxed);
  }
  return process;
}

std::uint32_t process_start(pid_t process) noexcept {
  std::array<char, 32> path;
  std::snprintf(path.data(), path.size(), "/proc/%d/stat", static_cast<int>(process));
  std::array<char, 1024> buffer;
  const std::string_view stat = read_file(path.data(), buffer);
  const std::string_view state = field(stat, 3);
  const std::string_view start = field(stat, 22);
  // A zombie uses no memory any more.
  if (start.empty() || state == "Z" || state == "X") return 0;
  const std::uint32_t sum = digest(start);
  return sum == 0 ? 1 : sum;
}

bool is_forked() noexcept {
  std::array<char, 1024> buffer;
  const std::string_view flags = field(read_file("/proc/self/stat", buffer), 9);
  // PF_FORKNOEXEC, of the kernel's include/linux/sched.h.
  constexpr unsigned long kForkedNotExecuted = 0x40;
  unsigned long value = 0;
  std::from_chars(flags.data(), flags.data() + flags.size(), value);
  return (value & kForkedNotExecuted) != 0;
}

std::uint32_t process_space() noexcept {
  static const std::uint32_t space = [] {
    std::array<char, 64> buffer;
    std::uint32_t sum = digest(read_file("/proc/sys/kernel/random/boot_id", buffer));
    struct ::stat numbers {};
    if (::stat("/proc/self/ns/pid", &numbers) == 0) {
      sum = digest({reinterpret_cast<const char*>(&numbers.st_ino), sizeof numbers.st_ino}, sum);
    }
    return sum;
  }();
  return space;
}

bool has_thread(std::string_view name) noexcept {
  DIR* const tasks = ::opendir("/proc/self/task");
  if (tasks == nullptr) return true;
  bool found = false;
  while (const ::dirent* task = found ? nullptr : ::readdir(tasks)) {
    std::array<char, 320> path;
    std::snprintf(path.data(), path.size(), "/proc/self/task/%s/comm", task->d_name);
    std::array<char, 32> buffer;
    std::string_view comm = read_file(path.data(), buffer);
    if (comm.ends_with('\n')) comm.remove_suffix(1);
    found = comm == name;
  }
  ::closedir(tasks);
  return found;
}

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool lost_processor() noexcept {
  thread_local long known_switches = 0;
  rusage used{};
  if (::getrusage(RUSAGE_THREAD, &used) != 0) return false;
  return std::exchange(known_switches, used.ru_nivcsw) != used.ru_nivcsw;
}

void stay_loaded() noexcept {
  Dl_info here;
  // Finds nothing when this is part of the program, which stays anyway.
  if (::dladdr(&known, &here) != 0) {
    ::dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
  }
}

NIXL_CONNECT_NAMESPACE_END
