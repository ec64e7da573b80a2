#pragma once

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

/// Lines of text between two processes.
class Lines {
 public:
  Lines(int in, int out) : in_(in), out_(out) { ::fcntl(in_, F_SETFL, O_NONBLOCK); }

  int fd() const noexcept { return in_; }
  bool closed() const noexcept { return closed_; }

  /// Writes the line at once, or waits until there is room.
  void send(std::string line) {
    line += '\n';
    std::string_view rest = line;
    while (!rest.empty()) {
      const ssize_t n = ::write(out_, rest.data(), rest.size());
      if (n < 0) {
        if (errno != EAGAIN) throw std::system_error(errno, std::generic_category(), "write");
        pollfd room{out_, POLLOUT, 0};
        ::poll(&room, 1, -1);
        continue;
      }
      rest.remove_prefix(static_cast<std::size_t>(n));
    }
  }

  /// The whole lines that have arrived. Never blocks.
  std::vector<std::string> receive() {
    char chunk[65536];
    while (true) {
      const ssize_t n = ::read(in_, chunk, sizeof chunk);
      if (n == 0) closed_ = true;
      if (n <= 0) break;
      partial_.append(chunk, static_cast<std::size_t>(n));
    }
    std::vector<std::string> lines;
    std::size_t begin = 0;
    for (std::size_t end; (end = partial_.find('\n', begin)) != std::string::npos;
         begin = end + 1) {
      lines.push_back(partial_.substr(begin, end - begin));
    }
    partial_.erase(0, begin);
    return lines;
  }

 private:
  int in_;
  int out_;
  bool closed_ = false;
  std::string partial_;
};
