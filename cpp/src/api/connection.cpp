#include "nixl_connect/connection.h"

#include <algorithm>
#include <new>
#include <utility>

#include "engine/engine.h"
#include "wire/bytes.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

void throw_failure(const Progress& progress) {
  if (const auto failure = progress.failure()) throw Error(failure->code, failure->message);
}

/// Waits until there is metadata, or never will be.
void wait_ready(const Connection& connection, const Operation& operation) {
  if (!operation.request.passive) {
    throw Error(ErrorCode::invalid_state,
                operation.request.describe() + ": an active operation has no metadata to send");
  }
  connection.wait(Milestone::ready, std::nullopt);
}

/// Of an operation that has ended.
void throw_unless_complete(const Operation& operation) {
  if (operation.progress.status() == OperationStatus::complete) return;
  throw_failure(operation.progress);
  throw Error(ErrorCode::cancelled, operation.request.describe() + ": was cancelled");
}

/// Where a draft comes from. Waits until it can be had.
const Progress& drafted(const Connection& connection, const Operation& operation) {
  wait_ready(connection, operation);
  if (operation.progress.ended()) throw_unless_complete(operation);
  return operation.progress;
}

}  // namespace

Connection::Connection(std::shared_ptr<Operation> operation,
                       std::shared_ptr<Engine> engine) noexcept
    : operation_(std::move(operation)), engine_(std::move(engine)) {}
Connection::Connection(Connection&&) noexcept = default;

Connection& Connection::operator=(Connection&& other) noexcept {
  std::swap(operation_, other.operation_);
  std::swap(engine_, other.engine_);
  return *this;
}

Connection::~Connection() {
  if (operation_ == nullptr) return;
  if (engine_->fork_guard().is_child()) {
    // A condition variable on which a thread of the parent waited cannot be destroyed here.
    static_cast<void>(new (std::nothrow) std::shared_ptr<Operation>(std::move(operation_)));
    return;
  }
  if (!operation_->request.passive) return;
  try {
    cancel();
  } catch (const std::exception&) {
    // The engine is closed, and has ended the operation already.
  }
}

std::string Connection::name() const { return operation_->request.name(); }
OperationKind Connection::kind() const noexcept { return operation_->request.kind; }
bool Connection::passive() const noexcept { return operation_->request.passive; }
const std::vector<RemoteDescriptor>& Connection::offered() const noexcept {
  return operation_->request.offered;
}
const std::string& Connection::notification_key() const noexcept { return operation_->request.key; }
const std::string& Connection::remote_name() const noexcept {
  return operation_->request.remote_name;
}
OperationStatus Connection::status() const noexcept { return operation_->progress.status(); }
std::optional<Failure> Connection::failure() const { return operation_->progress.failure(); }
bool Connection::reached(Milestone milestone) const noexcept {
  return operation_->progress.reached(milestone);
}

void Connection::share() const {
  wait_ready(*this, *operation_);
  Progress& progress = operation_->progress;
  if (!progress.take_metadata()) throw_unless_complete(*operation_);
}

std::string Connection::nixl_metadata(MetadataEncoding encoding) const {
  share();
  return operation_->progress.nixl_metadata(encoding);
}

RdmaMetadata Connection::draft(MetadataEncoding encoding) const {
  const Progress& progress = drafted(*this, *operation_);
  const Request& request = operation_->request;
  return {request.offered, progress.nixl_metadata(encoding), request.key, request.kind};
}

RdmaMetadata Connection::metadata(MetadataEncoding encoding) const {
  share();
  return draft(encoding);
}

std::string Connection::draft_bytes() const {
  const auto [blob, encoder] = drafted(*this, *operation_).offered();
  const Request& request = operation_->request;
  return to_bytes(request.kind, request.key, request.offered, *encoder, *blob);
}

std::string Connection::metadata_bytes() const {
  share();
  return draft_bytes();
}

bool Connection::wait(Milestone milestone, std::optional<std::chrono::nanoseconds> timeout) const {
  Progress& progress = operation_->progress;
  if (progress.reached(milestone)) return true;
  engine_->fork_guard().check();
  if (!timeout && Engine::is_engine_thread()) {
    throw Error(ErrorCode::invalid_state,
                operation_->request.describe() +
                    ": waited for without a timeout by an owner of memory while an engine's thread "
                    "releases it, which cannot wait for itself");
  }
  // Who waits anyway may as well poll: a wait that is over soon is then spared two switches between
  // threads.
  const auto now = Clock::now();
  const auto limit = std::min(timeout.value_or(kLongestWait), kLongestWait);
  const std::chrono::nanoseconds spin = engine_->options().spin;
  engine_->poll_until(progress, milestone, now + std::min(limit, spin));
  if (!timeout) return progress.wait(milestone, std::nullopt);
  return progress.wait(milestone, limit - (Clock::now() - now));
}

bool Connection::wait(std::optional<std::chrono::nanoseconds> timeout) const {
  if (!wait(Milestone::ended, timeout)) return false;
  throw_failure(operation_->progress);
  return true;
}

std::uint32_t Connection::readers_done() const noexcept {
  return operation_->progress.readers_done();
}

std::uint32_t Connection::readers_failed() const noexcept {
  return operation_->progress.readers_failed();
}

bool Connection::wait_for_readers(std::uint32_t count,
                                  std::optional<std::chrono::nanoseconds> timeout) const {
  engine_->fork_guard().check();
  operation_->progress.wait_for_readers(count, timeout);
  if (readers_done() >= count) return true;
  throw_failure(operation_->progress);
  return false;
}

bool Connection::notify_readers(std::uint32_t count, std::shared_ptr<CompletionQueue> queue,
                                std::uint64_t token) const {
  engine_->fork_guard().check();
  return operation_->progress.notify_readers(count, std::move(queue), token);
}

bool Connection::notify(Milestone milestone, std::shared_ptr<CompletionQueue> queue,
                        std::uint64_t token) const {
  if (operation_->progress.reached(milestone)) return false;
  engine_->fork_guard().check();
  return operation_->progress.notify(milestone, std::move(queue), token);
}

void Connection::forget(const CompletionQueue& queue, std::uint64_t token) const {
  if (!engine_->fork_guard().is_child()) operation_->progress.forget(queue, token);
}

void Connection::cancel() const {
  Progress& progress = operation_->progress;
  if (progress.ended()) return;
  engine_->fork_guard().check();
  if (progress.finish(OperationStatus::cancelled)) {
    // This handle may be gone when it returns: the owner of the memory may have had it. It is
    // refused only when the engine is closing, and then that cleans up anyway.
    const auto engine = engine_;
    engine->submit_if_open(operation_);
  }
}

NIXL_CONNECT_NAMESPACE_END
