#pragma once

#include <poll.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <utility>

#include "lines.h"
#include "nixl_connect/coroutine.h"
#include "nixl_connect/nixl_connect.h"
#include "work.h"

#ifdef BENCH_ASIO
#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#endif
#ifdef BENCH_UV
#include <uv.h>
#endif

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

/// Blocks in `Connection::wait`, for one operation after another.
class Blocking {
 public:
  explicit Blocking(const Lines& lines) : lines_(lines) {}
  void watch(std::size_t slot, nixl_connect::Connection connection) {
    waiting_.emplace_back(slot, std::move(connection));
  }
  void progress(nixl_connect::Connector&, const Ended& ended) {
    for (const auto& [slot, connection] : std::exchange(waiting_, {})) {
      connection.wait();
      ended(slot);
    }
  }
  void wait() {
    pollfd fd{lines_.fd(), POLLIN, 0};
    if (waiting_.empty()) ::poll(&fd, 1, -1);
  }

 private:
  const Lines& lines_;
  std::deque<std::pair<std::size_t, nixl_connect::Connection>> waiting_;
};

/// A coroutine for each operation, resumed by a thread that sleeps in `poll`.
class Coroutines {
 public:
  explicit Coroutines(const Lines& lines) : lines_(lines) {}
  void watch(std::size_t slot, nixl_connect::Connection connection) {
    follow(slot, std::move(connection));
  }
  void progress(nixl_connect::Connector&, const Ended& ended) {
    queue_.resume();
    for (const std::size_t slot : std::exchange(ended_, {})) ended(slot);
  }
  void wait() {
    if (ended_.empty()) sleep_until_readable(lines_.fd(), queue_.fd());
  }

 private:
  struct Detached {
    struct promise_type {
      Detached get_return_object() noexcept { return {}; }
      std::suspend_never initial_suspend() noexcept { return {}; }
      std::suspend_never final_suspend() noexcept { return {}; }
      void return_void() noexcept {}
      void unhandled_exception() { throw; }
    };
  };

  Detached follow(std::size_t slot, nixl_connect::Connection connection) {
    co_await connection.completion(queue_);
    ended_.push_back(slot);
  }

  const Lines& lines_;
  nixl_connect::CoroutineQueue queue_;
  std::vector<std::size_t> ended_;
};

#ifdef BENCH_ASIO
/// Sleeps in Asio's event loop.
class AsioLoop : public Queued {
 public:
  // Asio closes what it is given.
  explicit AsioLoop(const Lines& lines)
      : lines_(context_, ::dup(lines.fd())), completions_(context_, ::dup(fd())) {}

  void wait() {
    context_.restart();
    listen(lines_, hears_lines_);
    listen(completions_, hears_completions_);
    context_.run_one();
  }

 private:
  using Descriptor = asio::posix::stream_descriptor;

  static void listen(Descriptor& descriptor, bool& hears) {
    if (hears) return;
    hears = true;
    descriptor.async_wait(Descriptor::wait_read, [&hears](asio::error_code) { hears = false; });
  }

  // One thread, so Asio need not lock.
  asio::io_context context_{ASIO_CONCURRENCY_HINT_UNSAFE_IO};
  Descriptor lines_;
  Descriptor completions_;
  bool hears_lines_ = false;
  bool hears_completions_ = false;
};
#endif

#ifdef BENCH_UV
/// Sleeps in libuv's event loop.
class UvLoop : public Queued {
 public:
  explicit UvLoop(const Lines& lines) {
    uv_loop_init(&loop_);
    listen(lines_, lines.fd());
    listen(completions_, fd());
  }
  UvLoop(const UvLoop&) = delete;
  UvLoop& operator=(const UvLoop&) = delete;
  ~UvLoop() {
    uv_close(reinterpret_cast<uv_handle_t*>(&lines_), nullptr);
    uv_close(reinterpret_cast<uv_handle_t*>(&completions_), nullptr);
    uv_run(&loop_, UV_RUN_DEFAULT);
    uv_loop_close(&loop_);
  }

  void wait() { uv_run(&loop_, UV_RUN_ONCE); }

 private:
  void listen(uv_poll_t& handle, int fd) {
    uv_poll_init(&loop_, &handle, fd);
    uv_poll_start(&handle, UV_READABLE, [](uv_poll_t*, int, int) {});
  }

  uv_loop_t loop_{};
  uv_poll_t lines_{};
  uv_poll_t completions_{};
};
#endif

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
