// A function that is called when an operation has ended, on a thread of the program's own: for
// runtimes that are given callbacks rather than a loop.
#include <poll.h>

#include <functional>
#include <future>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "example.h"

namespace {

/// One thread that calls back.
///
/// Thread safety: `then` may be called from any thread, callbacks among them.
class Dispatcher {
 public:
  using Callback = std::function<void(const nc::Connection&)>;

  Dispatcher() : queue_(nc::CompletionQueue::create()), thread_([this] { run(); }) {}
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;
  /// Forgets what has not ended.
  ~Dispatcher() {
    queue_->push(kStop);
    thread_.join();
  }

  /// Owns the operation until its end, and then hands it to `callback`, which must not throw.
  void then(nc::Connection operation, Callback callback) {
    const std::lock_guard lock(mutex_);
    const std::uint64_t token = ++last_token_;
    if (!operation.notify(nc::Milestone::ended, queue_, token)) queue_->push(token);
    waiting_.emplace(token, Waiting{std::move(operation), std::move(callback)});
  }

 private:
  struct Waiting {
    nc::Connection operation;
    Callback callback;
  };

  static constexpr std::uint64_t kStop = 0;

  void run() {
    std::vector<std::uint64_t> tokens;
    while (true) {
      pollfd readable{queue_->fd(), POLLIN, 0};
      ::poll(&readable, 1, -1);
      tokens.clear();
      queue_->drain(tokens);
      for (const std::uint64_t token : tokens) {
        if (token == kStop) return;
        const auto waiting = take(token);
        waiting.mapped().callback(waiting.mapped().operation);
      }
    }
  }

  std::unordered_map<std::uint64_t, Waiting>::node_type take(std::uint64_t token) {
    const std::lock_guard lock(mutex_);
    return waiting_.extract(token);
  }

  std::shared_ptr<nc::CompletionQueue> queue_;
  std::mutex mutex_;
  std::unordered_map<std::uint64_t, Waiting> waiting_;
  std::uint64_t last_token_ = kStop;
  std::thread thread_;
};

}  // namespace

int main() {
  stay_on_this_machine();
  nc::Connector owner({.name = "owner"});
  nc::Connector reader({.name = "reader"});
  const std::vector<Buffer> from = filled_buffers();
  const std::vector<Buffer> to = empty_buffers();

  std::promise<void> all_ended;
  std::size_t left = 2 * kBuffers;
  std::size_t failed = 0;
  // Called by one thread, so that these need no lock.
  const auto ended = [&](const nc::Connection& operation) {
    if (const auto failure = operation.failure()) {
      std::fprintf(stderr, "%s\n", failure->message.c_str());
      ++failed;
    }
    if (--left == 0) all_ended.set_value();
  };
  Dispatcher dispatcher;
  for (std::size_t i = 0; i < kBuffers; ++i) {
    nc::Connection offer = owner.create_readable({from[i].descriptor()});
    dispatcher.then(reader.begin_read(offer.metadata(), {to[i].descriptor()}), ended);
    dispatcher.then(std::move(offer), ended);
  }
  all_ended.get_future().wait();
  return failed == 0 ? report(to) : 1;
}
