// A thread that waits: with a timeout, and with what may go wrong. One operation moves a whole list
// of buffers.
#include "example.h"

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

std::vector<nc::Descriptor> descriptors_of(const std::vector<Buffer>& buffers) {
  std::vector<nc::Descriptor> descriptors;
  for (const Buffer& buffer : buffers) descriptors.push_back(buffer.descriptor());
  return descriptors;
}

void move_all(nc::Connector& owner, nc::Connector& reader, const std::vector<Buffer>& from,
              const std::vector<Buffer>& to) {
  const nc::Connection offer = owner.create_readable(descriptors_of(from));
  const nc::Connection read = reader.begin_read(offer.metadata(), descriptors_of(to));
  // False means that the time is up; the operation goes on.
  while (!read.wait(seconds(1))) std::fputs("still reading\n", stderr);
  // Without a timeout the wait ends no later than the operation's own deadline.
  offer.wait();
}

/// A wait that is given up, and then the operation itself.
bool gives_up(nc::Connector& owner, const Buffer& buffer) {
  const nc::Connection offer = owner.create_readable({buffer.descriptor()});
  if (offer.wait(milliseconds(1))) return false;
  offer.cancel();
  // To cancel is no failure: the wait returns, and the status tells.
  offer.wait();
  return offer.status() == nc::OperationStatus::cancelled;
}

/// A deadline of the operation's own, whoever waits or does not.
bool misses_its_deadline(nc::Connector& owner, const Buffer& buffer) {
  const nc::Connection offer = owner.create_readable({buffer.descriptor()}, milliseconds(1));
  try {
    offer.wait();
  } catch (const nc::Error& error) {
    return error.code() == nc::ErrorCode::timed_out;
  }
  return false;
}

/// Wrong use fails at the call, before anything has begun.
bool refuses(nc::Connector& owner, nc::Connector& reader, const Buffer& large,
             const Buffer& small) {
  const nc::Connection offer = owner.create_readable({large.descriptor()});
  try {
    static_cast<void>(reader.begin_read(offer.metadata(), {small.descriptor()}));
  } catch (const nc::Error& error) {
    return error.code() == nc::ErrorCode::invalid_argument;
  }
  return false;
}

}  // namespace

int main() {
  stay_on_this_machine();
  nc::Connector owner({.name = "owner"});
  nc::Connector reader({.name = "reader"});
  const std::vector<Buffer> from = filled_buffers();
  const std::vector<Buffer> to = empty_buffers();
  try {
    move_all(owner, reader, from, to);
    if (!gives_up(owner, from[0]) || !misses_its_deadline(owner, from[0]) ||
        !refuses(owner, reader, from[0], Buffer(1))) {
      std::fputs("something ended otherwise than it should\n", stderr);
      return 1;
    }
  } catch (const nc::Error& error) {
    // The code is for programs, the text for people.
    std::fprintf(stderr, "%s: %s\n", nc::to_string(error.code()), error.what());
    return 1;
  }
  return report(to);
}
