#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>

#include "nixl_connect/connector.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Counts what one thread at a time does, for all to read.
class Counter {
 public:
  void add(std::uint64_t more) noexcept { set(value() + more); }
  void set(std::uint64_t value) noexcept { value_.store(value, std::memory_order_relaxed); }
  std::uint64_t value() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

/// `OperationStats` in the making.
struct OperationCounters {
  Counter complete;
  Counter cancelled;
  Counter errored;
  std::array<Counter, kErrorCodes> failures;
  Counter bytes;
  Counter nanoseconds;
  std::array<Counter, OperationStats::kLatencyBuckets> latency;

  void count_complete(std::size_t size, std::chrono::nanoseconds took) noexcept {
    const auto count = static_cast<std::uint64_t>(took.count());
    complete.add(1);
    bytes.add(size);
    nanoseconds.add(count);
    const auto bucket = static_cast<std::size_t>(std::bit_width(count / 1000));
    latency[std::min(bucket, latency.size() - 1)].add(1);
  }

  void count_failure(ErrorCode code) noexcept {
    errored.add(1);
    failures[static_cast<std::size_t>(code)].add(1);
  }

  void add_to(OperationStats& stats) const noexcept {
    stats.complete += complete.value();
    stats.cancelled += cancelled.value();
    stats.errored += errored.value();
    for (std::size_t i = 0; i < failures.size(); ++i) stats.failures[i] += failures[i].value();
    stats.bytes += bytes.value();
    stats.total_latency += std::chrono::nanoseconds(nanoseconds.value());
    for (std::size_t i = 0; i < latency.size(); ++i) stats.latency[i] += latency[i].value();
  }
};

/// `ConnectorStats` in the making, of one engine. Written by whoever has its agent lock.
struct EngineCounters {
  OperationCounters readable;
  OperationCounters writable;
  OperationCounters read;
  OperationCounters write;
  Counter fenced;
  Counter waiting;
  Counter lingering;
  Counter lingering_bytes;
  /// In nanoseconds.
  Counter oldest_waiting;
  Counter in_flight;
  Counter oldest_in_flight;
  Counter registered_regions;
  Counter peers;
  Counter notifications_matched;
  Counter notifications_unknown;
  Counter notifications_sent;
  Counter notifications_refused;

  OperationCounters& of(OperationKind kind, bool passive) noexcept {
    if (kind == OperationKind::read) return passive ? readable : read;
    return passive ? writable : write;
  }

  void add_to(ConnectorStats& stats) const noexcept {
    readable.add_to(stats.readable);
    writable.add_to(stats.writable);
    read.add_to(stats.read);
    write.add_to(stats.write);
    stats.fenced += fenced.value();
    stats.waiting += waiting.value();
    stats.lingering += lingering.value();
    stats.lingering_bytes += lingering_bytes.value();
    stats.in_flight += in_flight.value();
    const auto longer = [](std::chrono::nanoseconds one, const Counter& other) {
      return std::max(one, std::chrono::nanoseconds(other.value()));
    };
    stats.oldest_waiting = longer(stats.oldest_waiting, oldest_waiting);
    stats.oldest_in_flight = longer(stats.oldest_in_flight, oldest_in_flight);
    stats.registered_regions += registered_regions.value();
    stats.peers += peers.value();
    stats.notifications_matched += notifications_matched.value();
    stats.notifications_unknown += notifications_unknown.value();
    stats.notifications_sent += notifications_sent.value();
    stats.notifications_refused += notifications_refused.value();
  }
};

NIXL_CONNECT_NAMESPACE_END
