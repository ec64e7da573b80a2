#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include "nixl_connect/api.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// What went wrong, for callers that act on it. The text beside it is for people.
enum class ErrorCode {
  invalid_argument,   ///< An argument is wrong; the message names it.
  invalid_state,      ///< The call does not fit the object's state.
  closed,             ///< The connector is closed.
  forked,             ///< A connector was used before this process was forked from its parent.
  nixl_not_found,     ///< No usable NIXL library on this machine.
  rejected_metadata,  ///< The peer's metadata failed the strict check or contradicts itself.
  offer_closed,       ///< The peer's offer was used before, was withdrawn, or has expired.
  peer_unreachable,   ///< The peer could not be reached: nothing was ever moved to or from it.
  peer_disconnected,  ///< The peer was reached before and is gone now.
  remote_failed,      ///< The peer has failed, cancelled or died while it was at the operation.
  cancelled,          ///< Cancelled on this side.
  timed_out,          ///< The deadline passed.
  backend,            ///< NIXL or its backend refused a call.
};

/// How many codes there are.
inline constexpr std::size_t kErrorCodes = static_cast<std::size_t>(ErrorCode::backend) + 1;

/// `"peer_unreachable"` and so on; static storage.
NIXL_CONNECT_API const char* to_string(ErrorCode code) noexcept;

/// Thrown by every synchronous call that fails.
class NIXL_CONNECT_API Error : public std::runtime_error {
 public:
  /// With a message that says what was expected and what came.
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ~Error() override;

  /// For callers that act on it; `what()` is for people.
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

/// Why an operation ended in error: what an `Error` carries, without being thrown.
struct Failure {
  ErrorCode code;       ///< For callers that act on it.
  std::string message;  ///< For people.
};

NIXL_CONNECT_NAMESPACE_END
