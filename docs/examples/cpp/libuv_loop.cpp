// Completions in libuv's event loop, the one of Node.js and others: a poll handle on the queue's
// descriptor, and a function for each operation's end.
#include <uv.h>

#include <functional>
#include <unordered_map>

#include "example.h"

namespace {

/// Calls back on the loop's thread when operations end. Close it before the loop.
class Operations {
 public:
  explicit Operations(uv_loop_t* loop) : queue_(nc::CompletionQueue::create()) {
    uv_poll_init(loop, &poll_, queue_->fd());
    poll_.data = this;
  }

  /// Owns the operation until its end, and then hands it to `ended`.
  void watch(nc::Connection operation, std::function<void(const nc::Connection&)> ended) {
    // libuv calls while the descriptor is readable, and counts as busy while it listens.
    if (waiting_.empty()) uv_poll_start(&poll_, UV_READABLE, &Operations::readable);
    const std::uint64_t number = ++last_number_;
    if (!operation.notify(nc::Milestone::ended, queue_, number)) queue_->push(number);
    waiting_.emplace(number, Waiting{std::move(operation), std::move(ended)});
  }

  void close() { uv_close(reinterpret_cast<uv_handle_t*>(&poll_), nullptr); }

 private:
  struct Waiting {
    nc::Connection operation;
    std::function<void(const nc::Connection&)> ended;
  };

  static void readable(uv_poll_t* poll, int, int) {
    auto& self = *static_cast<Operations*>(poll->data);
    std::vector<std::uint64_t> tokens;
    self.queue_->drain(tokens);
    for (const std::uint64_t token : tokens) {
      const auto waiting = self.waiting_.extract(token);
      waiting.mapped().ended(waiting.mapped().operation);
    }
    if (self.waiting_.empty()) uv_poll_stop(poll);
  }

  std::shared_ptr<nc::CompletionQueue> queue_;
  uv_poll_t poll_{};
  std::unordered_map<std::uint64_t, Waiting> waiting_;
  std::uint64_t last_number_ = 0;
};

}  // namespace

int main() {
  stay_on_this_machine();
  nc::Connector owner({.name = "owner"});
  nc::Connector reader({.name = "reader"});
  const std::vector<Buffer> from = filled_buffers();
  const std::vector<Buffer> to = empty_buffers();

  uv_loop_t loop;
  uv_loop_init(&loop);
  Operations operations(&loop);
  std::size_t failed = 0;
  const auto ended = [&](const nc::Connection& operation) {
    // Nothing may be thrown through libuv, which is C.
    if (const auto failure = operation.failure()) {
      std::fprintf(stderr, "%s\n", failure->message.c_str());
      ++failed;
    }
  };
  for (std::size_t i = 0; i < kBuffers; ++i) {
    nc::Connection offer = owner.create_readable({from[i].descriptor()});
    operations.watch(reader.begin_read(offer.metadata(), {to[i].descriptor()}), ended);
    operations.watch(std::move(offer), ended);
  }
  // Runs until nothing waits any more.
  uv_run(&loop, UV_RUN_DEFAULT);
  operations.close();
  uv_run(&loop, UV_RUN_DEFAULT);
  uv_loop_close(&loop);
  return failed == 0 ? report(to) : 1;
}
