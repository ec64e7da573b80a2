#pragma once

#include <cstddef>
#include <deque>
#include <vector>

#include "engine/clock.h"
#include "engine/outcome.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// Operations that wait for their fences, asked in turn. Each that is asked costs O(1).
///
/// Thread safety: for whoever has the agent lock.
class Fences {
 public:
  /// Asks the operation's fences. Returns whether all have been passed, or it has ended meanwhile;
  /// a fence that throws ends it as failed.
  static bool passed(Operation& operation);

  void add(const OperationPtr& operation);
  /// Appends the operations that wait no more. Once `until` has passed and one has been appended,
  /// the others are left for the next call.
  void poll(Clock::time_point until, std::vector<OperationPtr>& passed_ones);

  bool empty() const noexcept { return waiting_.empty(); }
  std::size_t size() const noexcept { return waiting_.size(); }
  /// Those that are not small.
  std::size_t large() const noexcept { return large_; }

  template <typename Visit>
  void for_each(Visit visit) const {
    for (const OperationPtr& operation : waiting_) visit(operation);
  }

 private:
  /// The next one to be asked is the first.
  std::deque<OperationPtr> waiting_;
  std::size_t large_ = 0;
};

NIXL_CONNECT_NAMESPACE_END
