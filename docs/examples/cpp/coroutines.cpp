// An operation in a coroutine, dozens of them on one thread: straight code, with `co_await` where
// it waits. `Task` is the least that C++20 asks for; a program uses the one that it has.
#include <nixl_connect/coroutine.h>
#include <poll.h>

#include <exception>
#include <utility>

#include "example.h"

namespace {

/// A coroutine that runs at once, up to its first wait, and goes when this goes.
class Task {
 public:
  struct promise_type {
    Task get_return_object() { return Task(Handle::from_promise(*this)); }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() { failure = std::current_exception(); }

    std::exception_ptr failure;
  };

  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (handle_) handle_.destroy();
  }

  /// Whether it is through. Throws what it has thrown.
  bool done() const {
    if (handle_.promise().failure) std::rethrow_exception(handle_.promise().failure);
    return handle_.done();
  }

 private:
  using Handle = std::coroutine_handle<promise_type>;

  explicit Task(Handle handle) : handle_(handle) {}

  Handle handle_;
};

Task move(nc::Connector& owner, nc::Connector& reader, nc::CoroutineQueue& queue,
          const Buffer& from, const Buffer& to) {
  const nc::Connection offer = owner.create_readable({from.descriptor()});
  // So that `metadata` need not wait.
  co_await offer.completion(queue, nc::Milestone::ready);
  const nc::Connection read = reader.begin_read(offer.metadata(), {to.descriptor()});
  // These throw if the operation has failed.
  co_await read.completion(queue);
  co_await offer.completion(queue);
}

}  // namespace

int main() {
  stay_on_this_machine();
  nc::Connector owner({.name = "owner"});
  nc::Connector reader({.name = "reader"});
  const std::vector<Buffer> from = filled_buffers();
  const std::vector<Buffer> to = empty_buffers();

  nc::CoroutineQueue queue;
  std::vector<Task> tasks;
  for (std::size_t i = 0; i < kBuffers; ++i) {
    tasks.push_back(move(owner, reader, queue, from[i], to[i]));
  }
  for (const Task& task : tasks) {
    while (!task.done()) {
      pollfd readable{queue.fd(), POLLIN, 0};
      ::poll(&readable, 1, -1);
      queue.resume();
    }
  }
  return report(to);
}
