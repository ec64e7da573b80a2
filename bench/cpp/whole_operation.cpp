// Whole operations between two processes: the owner registers memory and offers it, sends the
// metadata as JSON over a pipe, the mover registers, reads and says that it is done, and the
// owner sees its own completion too. Bytes are checked outside the timing. Prints one line of
// JSON, as bench/python/worker.py does.

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>

#include "lines.h"
#include "metadata_encoder.h"
#include "nixl_connect/nixl_connect.h"
#include "raw_nixl.h"

namespace nc = nixl_connect;
using Clock = std::chrono::steady_clock;

namespace {

struct Options {
  std::string library = "ours";
  std::size_t size = 4096;
  std::size_t in_flight = 1;
  std::size_t operations = 1000;
  std::size_t warm_up = 100;
  std::size_t engines = 1;
  bool huge = false;
  bool mover = false;
};

double seconds(const timeval& t) {
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
}

double cpu_seconds() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

/// A buffer for each operation in flight, all on the same kind of pages.
class Buffers {
 public:
  Buffers(const Options& options, bool filled) : size_(options.size) {
    for (std::size_t slot = 0; slot < options.in_flight; ++slot) {
      constexpr std::size_t kHuge = std::size_t{2} << 20;
      const std::size_t length = (options.size + kHuge - 1) / kHuge * kHuge + kHuge;
      void* memory =
          ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (memory == MAP_FAILED) throw std::bad_alloc();
      const auto aligned = (reinterpret_cast<std::uintptr_t>(memory) + kHuge - 1) / kHuge * kHuge;
      ::madvise(reinterpret_cast<void*>(aligned), length - kHuge,
                options.huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
      buffers_.push_back(reinterpret_cast<unsigned char*>(aligned));
      std::memset(buffers_.back(), filled ? pattern(slot) : 0xff, size_);
    }
  }

  unsigned char* operator[](std::size_t slot) const { return buffers_[slot]; }

  bool right() const {
    for (std::size_t slot = 0; slot < buffers_.size(); ++slot) {
      const auto wanted = static_cast<unsigned char>(pattern(slot));
      if (std::any_of(buffers_[slot], buffers_[slot] + size_,
                      [&](unsigned char byte) { return byte != wanted; })) {
        return false;
      }
    }
    return true;
  }

 private:
  static int pattern(std::size_t slot) { return static_cast<int>(slot % 251); }

  std::size_t size_;
  std::vector<unsigned char*> buffers_;
};

/// What both libraries have in common on each side. A side calls back through `Ended`, once for
/// each operation.
using Ended = std::function<void(std::size_t slot)>;

struct RawOwner {
  RawOwner(const Options& options, const Buffers& buffers)
      : nixl("owner"), size(options.size), memory(buffers) {}

  std::string hello() { return encoder.encode(nixl.metadata(nullptr, 0)); }
  std::string offer(std::size_t slot) {
    nixl.register_memory(memory[slot], size);
    nc::RdmaMetadata metadata;
    metadata.descriptors = {{reinterpret_cast<std::uintptr_t>(memory[slot]), size, {}}};
    metadata.nixl_metadata = encoder.encode(nixl.metadata(memory[slot], size));
    char key[33];
    std::snprintf(key, sizeof key, "%032zx", ++keys);
    metadata.notification_key = key;
    metadata.operation_kind = nc::OperationKind::read;
    waiting.emplace(key, slot);
    return nc::to_json(metadata);
  }
  void progress(const Ended& ended) {
    nixl.for_each_notification([&](std::string_view key) {
      const auto it = waiting.find(std::string(key));
      const std::size_t slot = it->second;
      waiting.erase(it);
      nixl.deregister_memory(memory[slot], size);
      ended(slot);
    });
  }
  void wait(const Lines&) {}

  RawNixl nixl;
  // As cheap as it can be: nothing is compressed.
  nc::MetadataEncoder encoder{""};
  std::size_t size;
  const Buffers& memory;
  std::size_t keys = 0;
  std::unordered_map<std::string, std::size_t> waiting;
};

struct RawMover {
  RawMover(const Options& options, const Buffers& buffers)
      : nixl("mover"), size(options.size), memory(buffers) {}

  void hello(std::string_view text) { nixl.load(nc::decode_nixl_metadata(text)); }
  void begin(std::size_t slot, std::string_view json) {
    const nc::RdmaMetadata remote = nc::metadata_from_json(json);
    nixl.register_memory(memory[slot], size);
    nixl.load(nc::decode_nixl_metadata(remote.nixl_metadata));
    flights.emplace_back(slot, nixl.read("owner", remote.descriptors[0].address, memory[slot], size,
                                         remote.notification_key));
  }
  void progress(const Ended& ended) {
    for (std::size_t i = 0; i < flights.size();) {
      const auto [slot, request] = flights[i];
      if (!nixl.done(request)) {
        ++i;
        continue;
      }
      nixl.release(request);
      nixl.deregister_memory(memory[slot], size);
      flights[i] = flights.back();
      flights.pop_back();
      ended(slot);
    }
    // The peer needs us to make connections.
    if (flights.empty()) nixl.for_each_notification([](std::string_view) {});
  }
  void wait(const Lines&) {}

  RawNixl nixl;
  std::size_t size;
  const Buffers& memory;
  std::vector<std::pair<std::size_t, RawNixl::Request>> flights;
};

/// The library, from a thread that sleeps in `poll`, or from one that polls itself.
struct Ours {
  Ours(const char* name, const Options& options, const Buffers& buffers)
      : polls(options.library == "ours-polling"),
        connector(connector_options(name, options)),
        queue(nc::CompletionQueue::create()),
        size(options.size),
        memory(buffers) {
    connector.wait_started();
  }

  static nc::ConnectorOptions connector_options(const char* name, const Options& options) {
    nc::ConnectorOptions result;
    result.name = name;
    result.engines = options.engines;
    return result;
  }

  nc::Descriptor local(std::size_t slot) {
    return {reinterpret_cast<std::uintptr_t>(memory[slot]), size, {}, nullptr};
  }

  void track(std::size_t slot, nc::Connection connection) {
    const auto [it, added] = connections.insert_or_assign(slot, std::move(connection));
    if (!it->second.notify(nc::Milestone::ended, queue, slot)) queue->push(slot);
  }

  void progress(const Ended& ended) {
    if (polls) connector.progress();
    tokens.clear();
    queue->drain(tokens);
    for (const std::uint64_t slot : tokens) {
      connections.at(slot).wait();
      connections.erase(slot);
      ended(slot);
    }
  }

  void wait(const Lines& lines) {
    if (polls) return;
    pollfd fds[2] = {{lines.fd(), POLLIN, 0}, {queue->fd(), POLLIN, 0}};
    ::poll(fds, 2, -1);
  }

  const bool polls;
  nc::Connector connector;
  std::shared_ptr<nc::CompletionQueue> queue;
  std::size_t size;
  const Buffers& memory;
  std::map<std::size_t, nc::Connection> connections;
  std::vector<std::uint64_t> tokens;
};

struct OurOwner : Ours {
  OurOwner(const Options& options, const Buffers& buffers) : Ours("owner", options, buffers) {}

  std::string hello() { return ""; }
  std::string offer(std::size_t slot) {
    nc::Connection connection = connector.create_readable({local(slot)});
    std::string json = nc::to_json(connection.metadata());
    track(slot, std::move(connection));
    return json;
  }
};

struct OurMover : Ours {
  OurMover(const Options& options, const Buffers& buffers) : Ours("mover", options, buffers) {}

  void hello(std::string_view) {}
  void begin(std::size_t slot, std::string_view json) {
    track(slot, connector.begin_read(nc::metadata_from_json(json), {local(slot)}));
  }
};

template <typename Mover>
int run_mover(const Options& options, Lines& lines) {
  Buffers buffers(options, false);
  Mover mover(options, buffers);
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
    mover.wait(lines);
  }
  return 0;
}

template <typename Owner>
int run_owner(const Options& options, Lines& lines) {
  Buffers buffers(options, true);
  Owner owner(options, buffers);
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
      if (times.size() < operations) owner.wait(lines);
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

int run(const Options& options, Lines& lines) {
  if (options.library == "raw") {
    return options.mover ? run_mover<RawMover>(options, lines)
                         : run_owner<RawOwner>(options, lines);
  }
  return options.mover ? run_mover<OurMover>(options, lines) : run_owner<OurOwner>(options, lines);
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
