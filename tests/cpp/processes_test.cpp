// Two C++ processes: the child is forked before either has used NIXL.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sstream>

#include "memory.h"

namespace nixl_connect {
namespace {

using std::chrono::seconds;
using testing::Buffer;

constexpr unsigned kOperations = 256;

std::size_t size_of(unsigned i) { return 1 + i * 97; }

void write_all(int fd, const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t n = ::write(fd, text.data() + at, text.size() - at);
    ASSERT_GT(n, 0);
    at += static_cast<std::size_t>(n);
  }
}

/// One line for each offer: address, size, key, metadata.
void offer_all(int to_parent) {
  ConnectorOptions options;
  options.name = "child";
  Connector connector(options);
  std::vector<Connection> offers;
  std::ostringstream lines;
  for (unsigned i = 0; i < kOperations; ++i) {
    const Buffer buffer(size_of(i), i + 1);
    offers.push_back(connector.create_readable({buffer.descriptor()}));
    const RdmaMetadata metadata = offers.back().metadata();
    lines << metadata.descriptors[0].address << ' ' << metadata.descriptors[0].size << ' '
          << metadata.notification_key << ' ' << metadata.nixl_metadata << '\n';
  }
  write_all(to_parent, lines.str());
  ::close(to_parent);
  for (const auto& offer : offers) ASSERT_TRUE(offer.wait(seconds(60)));
}

TEST(Processes, EveryByteOf256OperationsAtOnce) {
  int pipe_fds[2];
  ASSERT_EQ(::pipe(pipe_fds), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::close(pipe_fds[0]);
    offer_all(pipe_fds[1]);
    // By way of `exit`, so that what UCX leaves behind is torn down too.
    std::exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  ::close(pipe_fds[1]);
  std::string text;
  char chunk[65536];
  for (ssize_t n; (n = ::read(pipe_fds[0], chunk, sizeof chunk)) > 0;) {
    text.append(chunk, static_cast<std::size_t>(n));
  }
  ::close(pipe_fds[0]);

  Connector connector;
  std::vector<Buffer> targets;
  std::vector<Connection> reads;
  std::istringstream lines(text);
  for (unsigned i = 0; i < kOperations; ++i) {
    RdmaMetadata metadata;
    RemoteDescriptor remote;
    ASSERT_TRUE(lines >> remote.address >> remote.size >> metadata.notification_key >>
                metadata.nixl_metadata);
    metadata.descriptors.push_back(remote);
    metadata.operation_kind = OperationKind::read;
    targets.emplace_back(remote.size);
    reads.push_back(connector.begin_read(metadata, {targets.back().descriptor()}));
  }
  for (unsigned i = 0; i < kOperations; ++i) {
    ASSERT_TRUE(reads[i].wait(seconds(60)));
    EXPECT_TRUE(targets[i] == Buffer(size_of(i), i + 1)) << i;
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace nixl_connect
