#include "nixl_connect/connection.h"

#include "engine/connection_state.h"
#include "engine/engine.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

void throw_failure(const ConnectionState& state) {
  if (const auto failure = state.failure()) throw Error(failure->code, failure->message);
}

}  // namespace

Connection::Connection(std::shared_ptr<ConnectionState> state) noexcept
    : state_(std::move(state)) {}
Connection::Connection(Connection&&) noexcept = default;

Connection& Connection::operator=(Connection&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

Connection::~Connection() {
  if (state_ == nullptr) return;
  if (state_->engine->in_forked_child()) {
    leak(std::move(state_));
    return;
  }
  if (!state_->passive) return;
  try {
    cancel();
  } catch (const std::exception&) {
    // The engine is closed, and has ended the operation already.
  }
}

std::string Connection::name() const { return state_->name(); }
OperationKind Connection::kind() const noexcept { return state_->kind; }
bool Connection::passive() const noexcept { return state_->passive; }
const std::string& Connection::notification_key() const noexcept { return state_->key; }
const std::string& Connection::remote_name() const noexcept { return state_->remote_name; }
OperationStatus Connection::status() const noexcept { return state_->status(); }
std::optional<Failure> Connection::failure() const { return state_->failure(); }
bool Connection::reached(Milestone milestone) const noexcept { return state_->reached(milestone); }

std::string Connection::nixl_metadata(MetadataEncoding encoding) const {
  if (!state_->passive) {
    throw Error(ErrorCode::invalid_state,
                state_->describe() + ": an active operation has no metadata to send");
  }
  wait(Milestone::ready, std::nullopt);
  state_->told.store(true, std::memory_order_release);
  // After `told`, so that whoever ends it from now on knows that a peer may have it.
  if (state_->ended() && state_->status() != OperationStatus::complete) {
    throw_failure(*state_);
    throw Error(ErrorCode::cancelled, state_->describe() + ": was cancelled");
  }
  return state_->nixl_metadata(encoding);
}

RdmaMetadata Connection::metadata(MetadataEncoding encoding) const {
  RdmaMetadata metadata;
  metadata.nixl_metadata = nixl_metadata(encoding);
  metadata.descriptors = state_->offered;
  metadata.notification_key = state_->key;
  metadata.operation_kind = state_->kind;
  return metadata;
}

bool Connection::wait(Milestone milestone, std::optional<std::chrono::nanoseconds> timeout) const {
  if (timeout) *timeout = std::min(*timeout, kLongestWait);
  if (state_->reached(milestone)) return true;
  state_->engine->check_process();
  // Who waits anyway may as well look: a wait that is over soon is then spared two switches between
  // threads.
  const auto now = Clock::now();
  const std::chrono::nanoseconds spin = state_->engine->options().spin;
  const auto limit = timeout ? std::min(*timeout, spin) : spin;
  state_->engine->look_until([&] { return state_->reached(milestone); }, now + limit);
  if (timeout) *timeout -= Clock::now() - now;
  return state_->wait(milestone, timeout);
}

bool Connection::wait(std::optional<std::chrono::nanoseconds> timeout) const {
  if (!wait(Milestone::ended, timeout)) return false;
  throw_failure(*state_);
  return true;
}

bool Connection::notify(Milestone milestone, std::shared_ptr<CompletionQueue> queue,
                        std::uint64_t token) const {
  if (state_->reached(milestone)) return false;
  state_->engine->check_process();
  return state_->notify(milestone, std::move(queue), token);
}

void Connection::forget(const CompletionQueue& queue, std::uint64_t token) const {
  if (!state_->engine->in_forked_child()) state_->forget(queue, token);
}

void Connection::cancel() const {
  if (state_->ended()) return;
  state_->engine->check_process();
  if (state_->finish(OperationStatus::cancelled)) {
    // Refused only when the engine is closing, and then it cleans up anyway.
    state_->engine->attend_if_open(state_);
  }
}

NIXL_CONNECT_NAMESPACE_END
