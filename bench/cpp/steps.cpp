// What each step of an operation costs by itself, and whole operations in one process, beside the
// same through NIXL's C interface alone. Bytes really move; everything is on one host.

#include <benchmark/benchmark.h>
#include <poll.h>

#include <map>
#include <thread>

#include "agent/peer_table.h"
#include "nixl_connect/nixl_connect.h"
#include "raw_nixl.h"
#include "wire/blob.h"
#include "wire/metadata_encoder.h"
#include "wire/notification.h"

using namespace nixl_connect;

namespace {

struct Memory {
  explicit Memory(std::size_t size) : bytes(size, '\1') {}
  std::vector<char> bytes;
  Descriptor descriptor() const {
    return {reinterpret_cast<std::uintptr_t>(bytes.data()), bytes.size(), {}, nullptr};
  }
};

/// Two connectors, or two bare agents, that know each other.
struct Pair {
  Pair() {
    left.wait_started();
    right.wait_started();
  }
  static Pair& get() {
    static auto* pair = new Pair;
    return *pair;
  }

  Connector left{{.name = "left"}};
  Connector right{{.name = "right"}};
};

struct RawPair {
  static RawPair& get() {
    static auto* pair = new RawPair;
    return *pair;
  }
  RawPair() { right.load(left.metadata(nullptr, 0)); }

  RawNixl left{"raw-left"};
  RawNixl right{"raw-right"};
};

/// A passive operation's metadata, from a real agent.
const std::string& sample_blob() {
  static const std::string blob = [] {
    const Memory memory(4096);
    const Connection offer = Pair::get().left.create_readable({memory.descriptor()});
    return decode_nixl_metadata(offer.nixl_metadata());
  }();
  return blob;
}

// Whole operations: offered, moved, seen to end on both sides.

void whole_operation(benchmark::State& state) {
  Pair& pair = Pair::get();
  const Memory from(static_cast<std::size_t>(state.range(0)));
  const Memory to(from.bytes.size());
  for (auto _ : state) {
    const Connection offer = pair.left.create_readable({from.descriptor()});
    const Connection read = pair.right.begin_read(offer.metadata(), {to.descriptor()});
    read.wait();
    offer.wait();
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(whole_operation)->Arg(4096)->Arg(1 << 20)->Arg(64 << 20)->UseRealTime();

void raw_whole_operation(benchmark::State& state) {
  RawPair& pair = RawPair::get();
  Memory from(static_cast<std::size_t>(state.range(0)));
  Memory to(from.bytes.size());
  const std::size_t size = from.bytes.size();
  for (auto _ : state) {
    pair.left.register_memory(from.bytes.data(), size);
    pair.right.load(pair.left.metadata(from.bytes.data(), size));
    pair.right.register_memory(to.bytes.data(), size);
    const auto request =
        pair.right.read("raw-left", reinterpret_cast<std::uintptr_t>(from.bytes.data()),
                        to.bytes.data(), size, "key");
    bool done = false;
    bool told = false;
    while (!done || !told) {
      done = done || pair.right.done(request);
      pair.left.for_each_notification([&](std::string_view) { told = true; });
    }
    pair.right.release(request);
    pair.right.deregister_memory(to.bytes.data(), size);
    pair.left.deregister_memory(from.bytes.data(), size);
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(raw_whole_operation)->Arg(4096)->Arg(1 << 20)->Arg(64 << 20)->UseRealTime();

// Steps of the passive side.

void offer_and_withdraw(benchmark::State& state) {
  const Memory memory(4096);
  for (auto _ : state) {
    const Connection offer = Pair::get().left.create_readable({memory.descriptor()});
    offer.wait(Milestone::ready, std::nullopt);
  }
}
BENCHMARK(offer_and_withdraw)->UseRealTime();

void offer_of_registered_memory(benchmark::State& state) {
  const Memory memory(4096);
  const Registration held = Pair::get().left.register_memory(memory.descriptor());
  for (auto _ : state) {
    const Connection offer = Pair::get().left.create_readable({memory.descriptor()});
    offer.wait(Milestone::ready, std::nullopt);
  }
}
BENCHMARK(offer_of_registered_memory)->UseRealTime();

void raw_register_describe_deregister(benchmark::State& state) {
  const Memory memory(4096);
  RawNixl& nixl = RawPair::get().left;
  for (auto _ : state) {
    nixl.register_memory(memory.bytes.data(), memory.bytes.size());
    benchmark::DoNotOptimize(nixl.metadata(memory.bytes.data(), memory.bytes.size()));
    nixl.deregister_memory(memory.bytes.data(), memory.bytes.size());
  }
}
BENCHMARK(raw_register_describe_deregister);

// Metadata.

void metadata_encode(benchmark::State& state) {
  const std::string& blob = sample_blob();
  const MetadataEncoder encoder(Blob::parse(blob)->head());
  for (auto _ : state) benchmark::DoNotOptimize(encoder.encode(blob));
  state.counters["bytes"] = static_cast<double>(encoder.encode(blob).size());
}
BENCHMARK(metadata_encode);

void metadata_encode_whole(benchmark::State& state) {
  const std::string& blob = sample_blob();
  for (auto _ : state) {
    benchmark::DoNotOptimize(encode_nixl_metadata(blob, MetadataEncoding::base64));
  }
  state.counters["bytes"] =
      static_cast<double>(encode_nixl_metadata(blob, MetadataEncoding::base64).size());
}
BENCHMARK(metadata_encode_whole);

void metadata_decode(benchmark::State& state) {
  const std::string text =
      MetadataEncoder(Blob::parse(sample_blob())->head()).encode(sample_blob());
  for (auto _ : state) benchmark::DoNotOptimize(decode_nixl_metadata(text));
}
BENCHMARK(metadata_decode);

void metadata_check(benchmark::State& state) {
  const std::string& blob = sample_blob();
  for (auto _ : state) benchmark::DoNotOptimize(Blob::parse(blob));
}
BENCHMARK(metadata_check);

void json_write(benchmark::State& state) {
  const Memory memory(4096);
  const Connection offer = Pair::get().left.create_readable({memory.descriptor()});
  const RdmaMetadata metadata = offer.metadata();
  for (auto _ : state) benchmark::DoNotOptimize(to_json(metadata));
}
BENCHMARK(json_write);

void json_read(benchmark::State& state) {
  const Memory memory(4096);
  const Connection offer = Pair::get().left.create_readable({memory.descriptor()});
  const std::string json = to_json(offer.metadata());
  for (auto _ : state) benchmark::DoNotOptimize(metadata_from_json(json));
}
BENCHMARK(json_read);

// The parts.

void notice_read(benchmark::State& state) {
  std::vector<std::string> keys;
  for (int i = 0; i < state.range(0); ++i) keys.push_back(make_notification_key({}));
  const std::string message = success_notice(keys);
  for (auto _ : state) benchmark::DoNotOptimize(Notice::read(message));
}
BENCHMARK(notice_read)->Arg(1)->Arg(64);

void mailbox_there_and_back(benchmark::State& state) {
  // `stats` asks the engine's thread, and waits for its answer.
  for (auto _ : state) benchmark::DoNotOptimize(Pair::get().left.stats());
}
BENCHMARK(mailbox_there_and_back)->UseRealTime();

void queue_push_and_drain(benchmark::State& state) {
  const auto queue = CompletionQueue::create();
  std::vector<std::uint64_t> tokens;
  for (auto _ : state) {
    for (int i = 0; i < state.range(0); ++i) queue->push(1);
    tokens.clear();
    queue->drain(tokens);
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(queue_push_and_drain)->Arg(1)->Arg(32);

/// From a push on one thread to the wake-up of another that sleeps in `poll`, and back.
void eventfd_to_waiter_and_back(benchmark::State& state) {
  const auto there = CompletionQueue::create();
  const auto back = CompletionQueue::create();
  const auto wait = [](CompletionQueue& queue) {
    pollfd fd{queue.fd(), POLLIN, 0};
    ::poll(&fd, 1, -1);
    std::vector<std::uint64_t> tokens;
    queue.drain(tokens);
    return tokens.at(0) != 0;
  };
  std::thread other([&] {
    while (wait(*there)) back->push(1);
  });
  for (auto _ : state) {
    there->push(1);
    wait(*back);
  }
  there->push(0);
  other.join();
}
BENCHMARK(eventfd_to_waiter_and_back)->UseRealTime();

}  // namespace

int main(int argc, char** argv) {
  ::setenv("UCX_NET_DEVICES", "lo", 0);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  std::fflush(stdout);
  // Bare NIXL crashes when a process exits on hosts that have libefa.
  std::quick_exit(0);
}
