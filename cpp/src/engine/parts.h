#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "engine/operation.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// From so many bytes on an operation on host memory is for several engines, in parts of about that
/// or more.
inline constexpr std::size_t kLargeOperation = std::size_t{1} << 20;

/// One of NIXL's transfers is from one type of memory to one other. Of an operation with several
/// such pairings each becomes a part, of the same engine, but for the one with the fewest bytes,
/// which the operation itself is left.
void cut_by_type(Operation& whole, const std::shared_ptr<EnginePort>& engine);
/// Makes parts of most of the operation, for the engines in turn from `first` on, and leaves the
/// operation itself its last bytes.
void cut_for_engines(Operation& whole, const std::vector<std::shared_ptr<EnginePort>>& engines,
                     std::size_t first);

/// The operations of one engine whose parts are under way.
///
/// Thread safety: for whoever has the agent lock.
class Parts {
 public:
  /// Sends the operation's parts to their engines, which report to `home`. Returns those that were
  /// refused; they have ended as failed.
  std::vector<OperationPtr> send(const OperationPtr& whole,
                                 const std::shared_ptr<EnginePort>& home);
  /// Cancels those that have not ended.
  static void cancel(const Operation& whole);
  /// One has ended. Its failure, if it has one, is the failure of the whole. Returns whether it was
  /// the last.
  bool ended(const OperationPtr& whole, std::optional<Failure> failure);

  bool empty() const noexcept { return split_.empty(); }

  template <typename Visit>
  void for_each(Visit visit) const {
    for (const OperationPtr& operation : split_) visit(operation);
  }

 private:
  std::set<OperationPtr> split_;
};

NIXL_CONNECT_NAMESPACE_END
