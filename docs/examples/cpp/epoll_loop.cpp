// Completions in a loop that sleeps in epoll, beside whatever else the program watches: here a
// timer, which ends the program if nothing has come for half a minute.
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "example.h"

namespace {

/// Moves all of `from` to `to`.
void move_all(const std::vector<Buffer>& from, const std::vector<Buffer>& to, int epoll,
              int timer) {
  nc::Connector owner({.name = "owner"});
  nc::Connector reader({.name = "reader"});

  // The queue's descriptor is readable while there is anything to drain.
  const auto queue = nc::CompletionQueue::create();
  epoll_event watched{};
  watched.events = EPOLLIN;
  watched.data.fd = queue->fd();
  ::epoll_ctl(epoll, EPOLL_CTL_ADD, queue->fd(), &watched);

  // An operation's end puts a token of the program's choice into the queue: here, which it was.
  std::vector<nc::Connection> operations;
  const auto watch = [&](nc::Connection operation) {
    const std::uint64_t token = operations.size();
    // False when the operation has ended already.
    if (!operation.notify(nc::Milestone::ended, queue, token)) queue->push(token);
    operations.push_back(std::move(operation));
  };

  for (std::size_t i = 0; i < from.size(); ++i) {
    nc::Connection offer = owner.create_readable({from[i].descriptor()});
    watch(reader.begin_read(offer.metadata(), {to[i].descriptor()}));
    watch(std::move(offer));
  }

  std::vector<std::uint64_t> tokens;
  for (std::size_t left = operations.size(); left > 0;) {
    epoll_event events[16];
    const int ready = ::epoll_wait(epoll, events, 16, -1);
    for (int i = 0; i < ready; ++i) {
      if (events[i].data.fd == queue->fd()) {
        tokens.clear();
        queue->drain(tokens);
        for (const std::uint64_t token : tokens) {
          // It has ended, so this returns at once, or throws the operation's failure.
          operations[token].wait();
          --left;
        }
      } else if (events[i].data.fd == timer) {
        throw std::runtime_error("nothing has come for half a minute");
      }
    }
  }
}

}  // namespace

int main() {
  stay_on_this_machine();
  const int epoll = ::epoll_create1(EPOLL_CLOEXEC);
  const int timer = ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
  const itimerspec half_a_minute{{0, 0}, {30, 0}};
  ::timerfd_settime(timer, 0, &half_a_minute, nullptr);
  epoll_event watched{};
  watched.events = EPOLLIN;
  watched.data.fd = timer;
  ::epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &watched);

  const std::vector<Buffer> from = filled_buffers();
  const std::vector<Buffer> to = empty_buffers();
  move_all(from, to, epoll, timer);
  ::close(timer);
  ::close(epoll);
  return report(to);
}
