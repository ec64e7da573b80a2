#include "nixl_connect/error.h"

NIXL_CONNECT_NAMESPACE_BEGIN

Error::~Error() = default;

const char* to_string(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::invalid_argument: return "invalid_argument";
    case ErrorCode::invalid_state: return "invalid_state";
    case ErrorCode::closed: return "closed";
    case ErrorCode::forked: return "forked";
    case ErrorCode::nixl_not_found: return "nixl_not_found";
    case ErrorCode::rejected_metadata: return "rejected_metadata";
    case ErrorCode::offer_closed: return "offer_closed";
    case ErrorCode::peer_unreachable: return "peer_unreachable";
    case ErrorCode::peer_disconnected: return "peer_disconnected";
    case ErrorCode::remote_failed: return "remote_failed";
    case ErrorCode::cancelled: return "cancelled";
    case ErrorCode::timed_out: return "timed_out";
    case ErrorCode::backend: return "backend";
  }
  return "unknown";
}

NIXL_CONNECT_NAMESPACE_END
