#pragma once

#include <memory>
#include <optional>

#include "nixl_connect/error.h"

NIXL_CONNECT_NAMESPACE_BEGIN

struct Operation;

/// What one engine knows of another: where the parts of an operation go, and who hears when they
/// have ended.
///
/// Thread safety: every member may be called from any thread.
class EnginePort {
 public:
  EnginePort() = default;
  EnginePort(const EnginePort&) = delete;
  EnginePort& operator=(const EnginePort&) = delete;
  virtual ~EnginePort() = default;

  /// Has the engine take the operation as far as it comes: begin it if it is fresh, clean up if it
  /// has ended. Starts the engine if need be. Throws `Error`: `closed` or `forked`.
  virtual void submit(std::shared_ptr<Operation> operation) = 0;
  /// The same, but returns false instead of throwing, and starts nothing.
  virtual bool submit_if_open(std::shared_ptr<Operation> operation) = 0;
  /// A part of this engine's operation has ended, with this failure if it has one, and its memory
  /// is released.
  virtual void part_ended(std::shared_ptr<Operation> whole, std::optional<Failure> failure) = 0;
};

NIXL_CONNECT_NAMESPACE_END
