// Whole operations between two processes: the owner registers memory and offers it, sends the
// metadata as JSON over a pipe, the mover registers, reads and says that it is done, and the
// owner sees its own completion too. Bytes are checked outside the timing. Prints one line of
// JSON, as bench/python/worker.py does.

#include <sys/wait.h>

#include <chrono>
#include <cstdio>
#include <stdexcept>

#include "lines.h"
#include "our_sides.h"
#include "raw_sides.h"
#include "work.h"

using Clock = std::chrono::steady_clock;

namespace {

template <typename Mover>
int run_mover(const Options& options, Lines& lines) {
  Buffers buffers(options, false);
  Mover mover(options, buffers, lines);
  bool greeted = false;
  while (!lines.closed()) {
    for (const std::string& line : lines.receive()) {
      if (!greeted) {
        mover.hello(line);
        greeted = true;
      } else if (line == "check") {
        lines.send((buffers.right() ? "1 " : "0 ") + std::to_string(cpu_seconds()));
      } else {
        const std::size_t space = line.find(' ');
        mover.begin(std::stoul(line.substr(0, space)), std::string_view(line).substr(space + 1));
      }
    }
    mover.progress([&](std::size_t slot) { lines.send(std::to_string(slot)); });
    mover.wait();
  }
  return 0;
}

template <typename Owner>
int run_owner(const Options& options, Lines& lines) {
  Buffers buffers(options, true);
  Owner owner(options, buffers, lines);
  lines.send(owner.hello());

  struct Slot {
    Clock::time_point began;
    int ends = 0;
  };
  std::vector<Slot> slots(options.in_flight);
  std::vector<double> times;

  const auto run = [&](std::size_t operations) {
    times.clear();
    std::size_t begun = 0;
    const auto begin = [&](std::size_t slot) {
      if (begun == operations) return;
      ++begun;
      slots[slot] = {Clock::now(), 0};
      const std::string json = owner.offer(slot);
      lines.send(std::to_string(slot) + " " + json);
    };
    const auto ended = [&](std::size_t slot) {
      if (++slots[slot].ends < 2) return;
      times.push_back(std::chrono::duration<double>(Clock::now() - slots[slot].began).count());
      begin(slot);
    };
    for (std::size_t slot = 0; slot < options.in_flight; ++slot) begin(slot);
    while (times.size() < operations) {
      if (lines.closed()) throw std::runtime_error("the mover has gone");
      for (const std::string& line : lines.receive()) ended(std::stoul(line));
      owner.progress(ended);
      if (times.size() < operations) owner.wait();
    }
  };
  const auto check = [&] {
    lines.send("check");
    std::vector<std::string> answer;
    while ((answer = lines.receive()).empty()) {
      if (lines.closed()) throw std::runtime_error("the mover has gone");
    }
    return std::pair(answer[0][0] == '1', std::stod(answer[0].substr(2)));
  };

  run(options.warm_up);
  const auto before = check();
  const double cpu = cpu_seconds();
  const auto began = Clock::now();
  run(options.operations);
  const double elapsed = std::chrono::duration<double>(Clock::now() - began).count();
  const double own = cpu_seconds() - cpu;
  const auto after = check();

  std::printf("{\"times\": [");
  for (std::size_t i = 0; i < times.size(); ++i) std::printf(i ? ",%.7f" : "%.7f", times[i]);
  std::printf("], \"elapsed\": %.6f, \"cpu\": %.6f, \"right\": %s}\n", elapsed,
              own + after.second - before.second, before.first && after.first ? "true" : "false");
  std::fflush(stdout);
  return 0;
}

template <typename Owner, typename Mover>
int run_side(const Options& options, Lines& lines) {
  return options.mover ? run_mover<Mover>(options, lines) : run_owner<Owner>(options, lines);
}

template <typename Way>
int run_ours(const Options& options, Lines& lines) {
  return run_side<OurOwner<Way>, OurMover<Way>>(options, lines);
}

int run(const Options& options, Lines& lines) {
  if (options.library == "raw") return run_side<RawOwner, RawMover>(options, lines);
  if (options.library == "ours") return run_ours<Poll>(options, lines);
  if (options.library == "ours-polling") return run_ours<Polling>(options, lines);
  if (options.library == "ours-blocking") return run_ours<Blocking>(options, lines);
  if (options.library == "ours-coroutine") return run_ours<Coroutines>(options, lines);
#ifdef BENCH_ASIO
  if (options.library == "ours-asio") return run_ours<AsioLoop>(options, lines);
#endif
#ifdef BENCH_UV
  if (options.library == "ours-uv") return run_ours<UvLoop>(options, lines);
#endif
  throw std::invalid_argument("unknown library " + options.library);
}

/// Starts this program again as the mover; returns the pipes to it.
Lines start_mover(char** argv) {
  int to[2];
  int from[2];
  if (::pipe2(to, O_CLOEXEC) != 0 || ::pipe2(from, O_CLOEXEC) != 0) {
    throw std::system_error(errno, std::generic_category(), "pipe");
  }
  std::vector<char*> arguments;
  for (char** argument = argv; *argument != nullptr; ++argument) arguments.push_back(*argument);
  char flag[] = "--mover";
  arguments.push_back(flag);
  arguments.push_back(nullptr);
  const pid_t child = ::fork();
  if (child < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (child == 0) {
    ::dup2(to[0], STDIN_FILENO);
    ::dup2(from[1], STDOUT_FILENO);
    ::execv("/proc/self/exe", arguments.data());
    ::_exit(127);
  }
  ::close(to[0]);
  ::close(from[1]);
  return Lines(from[0], to[1]);
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const std::size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : argument.substr(equals + 1);
    if (name == "--library") {
      options.library = value;
    } else if (name == "--size") {
      options.size = std::stoul(value);
    } else if (name == "--in-flight") {
      options.in_flight = std::stoul(value);
    } else if (name == "--operations") {
      options.operations = std::stoul(value);
    } else if (name == "--warm-up") {
      options.warm_up = std::stoul(value);
    } else if (name == "--engines") {
      options.engines = std::stoul(value);
    } else if (name == "--huge") {
      options.huge = true;
    } else if (name == "--mover") {
      options.mover = true;
    } else {
      throw std::invalid_argument("unknown option " + argument);
    }
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  ::setenv("UCX_NET_DEVICES", "lo", 0);
  const Options options = parse(argc, argv);
  if (options.mover) {
    Lines lines(STDIN_FILENO, STDOUT_FILENO);
    const int status = run(options, lines);
    std::fflush(stdout);
    // Bare NIXL crashes when a process exits on hosts that have libefa.
    ::_exit(status);
  }
  Lines lines = start_mover(argv);
  const int status = run(options, lines);
  ::_exit(status);
}
