// Two processes: one offers its memory and sends the metadata as JSON, a line for each operation,
// over any channel, here a pipe; the other reads.
#include <sys/wait.h>
#include <unistd.h>

#include "example.h"

namespace {

/// The process whose memory is read.
int offer_all(std::FILE* out) {
  nc::Connector connector({.name = "owner"});
  std::vector<nc::Connection> offers;
  for (const Buffer& buffer : filled_buffers()) {
    // The descriptor co-owns the buffer, so nobody else need keep it.
    offers.push_back(connector.create_readable({buffer.descriptor()}));
    std::fprintf(out, "%s\n", nc::to_json(offers.back().metadata()).c_str());
  }
  std::fclose(out);
  // Until each has been read, or its deadline has passed; throws in that case.
  for (const nc::Connection& offer : offers) offer.wait();
  return 0;
}

/// The process that reads.
int read_all(std::FILE* in) {
  nc::Connector connector({.name = "reader"});
  const std::vector<Buffer> buffers = empty_buffers();
  std::vector<nc::Connection> reads;
  char* line = nullptr;
  std::size_t capacity = 0;
  for (const Buffer& buffer : buffers) {
    const ssize_t length = ::getline(&line, &capacity, in);
    if (length <= 0) throw std::runtime_error("the owner has gone");
    // The metadata is checked here, and the transfer begins.
    const nc::RdmaMetadata metadata =
        nc::metadata_from_json({line, static_cast<std::size_t>(length)});
    reads.push_back(connector.begin_read(metadata, {buffer.descriptor()}));
  }
  std::free(line);
  std::fclose(in);
  for (const nc::Connection& read : reads) read.wait();
  return report(buffers);
}

}  // namespace

int main() {
  stay_on_this_machine();
  int pipe[2];
  if (::pipe(pipe) != 0) return 1;
  // Before either has used NIXL: UCX does not survive a fork.
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(pipe[0]);
    return offer_all(::fdopen(pipe[1], "w"));
  }
  ::close(pipe[1]);
  const int status = read_all(::fdopen(pipe[0], "r"));
  int child_status = -1;
  ::waitpid(child, &child_status, 0);
  return status == 0 ? child_status : status;
}
