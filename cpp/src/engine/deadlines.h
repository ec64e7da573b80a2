#pragma once

#include <map>
#include <memory>
#include <vector>

#include "engine/clock.h"

NIXL_CONNECT_NAMESPACE_BEGIN

struct Operation;

/// Operations by time: when their deadline passes, or when they have lingered for long enough.
///
/// An operation has one time at most, and its flight knows where that is. All calls take O(log n)
/// or less.
///
/// Thread safety: for whoever has the agent lock.
class Deadlines {
 public:
  using Entries = std::multimap<Clock::time_point, std::shared_ptr<Operation>>;

  /// In place of the operation's earlier one.
  void set(const std::shared_ptr<Operation>& operation, Clock::time_point when);
  /// Harmless when it has none.
  void remove(Operation& operation);
  /// Takes those whose time has come, the earliest first, and appends them to `due`.
  void take_due(Clock::time_point now, std::vector<std::shared_ptr<Operation>>& due);

  bool empty() const noexcept { return entries_.empty(); }
  /// The earliest; the end of time when there is none.
  Clock::time_point next() const noexcept {
    return entries_.empty() ? Clock::time_point::max() : entries_.begin()->first;
  }

 private:
  Entries entries_;
};

NIXL_CONNECT_NAMESPACE_END
