// Completions in Asio's event loop: one asynchronous function, which takes any of Asio's completion
// tokens, so that a program waits with a callback, a future or, as here, `co_await`.
#include <unistd.h>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/use_awaitable.hpp>
#include <functional>
#include <unordered_map>

#include "example.h"

namespace {

/// Waits for operations, on the thread that runs the context.
class Operations {
 public:
  // Asio closes the descriptor that it is given, so it gets one of its own.
  explicit Operations(asio::io_context& context)
      : queue_(nc::CompletionQueue::create()), descriptor_(context, ::dup(queue_->fd())) {}

  /// Calls back when the operation has ended, with its failure if it has one. The operation stays
  /// where it is until then.
  template <typename Token>
  auto async_wait(const nc::Connection& operation, Token&& token) {
    return asio::async_initiate<Token, void(std::exception_ptr)>(
        [this, &operation](auto handler) {
          // Asio's handlers can only be moved; a std::function must be able to be copied.
          const auto shared = std::make_shared<decltype(handler)>(std::move(handler));
          const std::uint64_t number = ++last_number_;
          waiting_[number] = [shared, &operation] { (*shared)(failure_of(operation)); };
          if (!operation.notify(nc::Milestone::ended, queue_, number)) queue_->push(number);
          listen();
        },
        token);
  }

 private:
  static std::exception_ptr failure_of(const nc::Connection& operation) {
    const auto failure = operation.failure();
    if (!failure) return nullptr;
    return std::make_exception_ptr(nc::Error(failure->code, failure->message));
  }

  /// Only while somebody waits, so that the context runs out of work when nobody does.
  void listen() {
    if (listening_ || waiting_.empty()) return;
    listening_ = true;
    descriptor_.async_wait(asio::posix::stream_descriptor::wait_read, [this](asio::error_code) {
      listening_ = false;
      std::vector<std::uint64_t> tokens;
      queue_->drain(tokens);
      for (const std::uint64_t token : tokens) waiting_.extract(token).mapped()();
      listen();
    });
  }

  std::shared_ptr<nc::CompletionQueue> queue_;
  asio::posix::stream_descriptor descriptor_;
  std::unordered_map<std::uint64_t, std::function<void()>> waiting_;
  std::uint64_t last_number_ = 0;
  bool listening_ = false;
};

asio::awaitable<void> move(nc::Connector& owner, nc::Connector& reader, Operations& operations,
                           const Buffer& from, const Buffer& to) {
  const nc::Connection offer = owner.create_readable({from.descriptor()});
  const nc::Connection read = reader.begin_read(offer.metadata(), {to.descriptor()});
  co_await operations.async_wait(read, asio::use_awaitable);
  co_await operations.async_wait(offer, asio::use_awaitable);
}

}  // namespace

int main() {
  stay_on_this_machine();
  nc::Connector owner({.name = "owner"});
  nc::Connector reader({.name = "reader"});
  const std::vector<Buffer> from = filled_buffers();
  const std::vector<Buffer> to = empty_buffers();

  asio::io_context context;
  Operations operations(context);
  for (std::size_t i = 0; i < kBuffers; ++i) {
    // What a coroutine throws is thrown on, out of `run`.
    asio::co_spawn(context, move(owner, reader, operations, from[i], to[i]),
                   [](const std::exception_ptr& failure) {
                     if (failure) std::rethrow_exception(failure);
                   });
  }
  context.run();
  return report(to);
}
