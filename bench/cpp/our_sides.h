#pragma once

#include <poll.h>

#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "lines.h"
#include "nixl_connect/nixl_connect.h"
#include "work.h"

// The two sides through the library, for each way to wait: for lines from the other side, and for
// operations that end.

inline void sleep_until_readable(int lines, int completions) {
  pollfd fds[2] = {{lines, POLLIN, 0}, {completions, POLLIN, 0}};
  ::poll(fds, 2, -1);
}

/// What most ways have in common: a queue to be drained.
class Queued {
 public:
  void watch(std::size_t slot, nixl_connect::Connection connection) {
    const auto [it, added] = connections_.insert_or_assign(slot, std::move(connection));
    if (!it->second.notify(nixl_connect::Milestone::ended, queue_, slot)) queue_->push(slot);
  }

  void progress(nixl_connect::Connector&, const Ended& ended) {
    tokens_.clear();
    queue_->drain(tokens_);
    for (const std::uint64_t slot : tokens_) {
      connections_.at(slot).wait();
      connections_.erase(slot);
      ended(slot);
    }
  }

 protected:
  int fd() const noexcept { return queue_->fd(); }

 private:
  std::shared_ptr<nixl_connect::CompletionQueue> queue_ = nixl_connect::CompletionQueue::create();
  std::map<std::size_t, nixl_connect::Connection> connections_;
  std::vector<std::uint64_t> tokens_;
};

/// Sleeps in `poll`.
class Poll : public Queued {
 public:
  explicit Poll(const Lines& lines) : lines_(lines) {}
  void wait() { sleep_until_readable(lines_.fd(), fd()); }

 private:
  const Lines& lines_;
};

/// Never sleeps, and does the engine's work itself.
class Polling : public Queued {
 public:
  explicit Polling(const Lines&) {}
  void progress(nixl_connect::Connector& connector, const Ended& ended) {
    connector.progress();
    Queued::progress(connector, ended);
  }
  void wait() {}
};

template <typename Way>
struct Ours {
  Ours(const char* name, const Options& options, const Buffers& buffers, const Lines& lines)
      : connector(connector_options(name, options)),
        way(lines),
        size(options.size),
        memory(buffers) {
    connector.wait_started();
  }

  static nixl_connect::ConnectorOptions connector_options(const char* name,
                                                          const Options& options) {
    nixl_connect::ConnectorOptions result;
    result.name = name;
    result.engines = options.engines;
    return result;
  }

  nixl_connect::Descriptor local(std::size_t slot) {
    return {reinterpret_cast<std::uintptr_t>(memory[slot]), size, {}, nullptr};
  }

  void progress(const Ended& ended) { way.progress(connector, ended); }
  void wait() { way.wait(); }

  nixl_connect::Connector connector;
  Way way;
  std::size_t size;
  const Buffers& memory;
};

template <typename Way>
struct OurOwner : Ours<Way> {
  OurOwner(const Options& options, const Buffers& buffers, const Lines& lines)
      : Ours<Way>("owner", options, buffers, lines) {}

  std::string hello() { return ""; }
  std::string offer(std::size_t slot) {
    nixl_connect::Connection connection = this->connector.create_readable({this->local(slot)});
    std::string json = nixl_connect::to_json(connection.metadata());
    this->way.watch(slot, std::move(connection));
    return json;
  }
};

template <typename Way>
struct OurMover : Ours<Way> {
  OurMover(const Options& options, const Buffers& buffers, const Lines& lines)
      : Ours<Way>("mover", options, buffers, lines) {}

  void hello(std::string_view) {}
  void begin(std::size_t slot, std::string_view json) {
    this->way.watch(slot, this->connector.begin_read(nixl_connect::metadata_from_json(json),
                                                     {this->local(slot)}));
  }
};
