// Memory that something else still fills, such as a GPU: the offer can be told when that is done,
// and no thread waits for it.
#include <chrono>
#include <future>

#include "example.h"

namespace {

/// Stands for the work of a GPU.
std::shared_future<void> fill(const Buffer& buffer, std::size_t number) {
  return std::async(std::launch::async, [buffer, number] { buffer.fill(number); }).share();
}

nc::Connection offer_when_filled(nc::Connector& owner, const Buffer& buffer, std::size_t number) {
  const std::shared_future<void> filled = fill(buffer, number);
  // Asked at each of the engine's looks until it says yes; it does not wait.
  const nc::Fence fence = [filled] {
    return filled.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  };
  return owner.create_readable({buffer.descriptor()}, std::nullopt, {fence});
}

}  // namespace

int main() {
  stay_on_this_machine();
  nc::Connector owner({.name = "owner"});
  nc::Connector reader({.name = "reader"});
  const std::vector<Buffer> from = empty_buffers();
  const std::vector<Buffer> to = empty_buffers();
  std::vector<nc::Connection> offers;
  for (std::size_t i = 0; i < from.size(); ++i) {
    offers.push_back(offer_when_filled(owner, from[i], i));
  }
  std::vector<nc::Connection> reads;
  for (std::size_t i = 0; i < to.size(); ++i) {
    // Blocks until the fence is passed; `notify` tells of Milestone::ready without that.
    reads.push_back(reader.begin_read(offers[i].metadata(), {to[i].descriptor()}));
  }
  for (const nc::Connection& read : reads) read.wait();
  return report(to);
}
