// How an engine loop comes to its end: what is open then, and who keeps it.
#include "engine/engine_loop.h"

NIXL_CONNECT_NAMESPACE_BEGIN

std::vector<OperationPtr> EngineLoop::open_operations() const {
  std::vector<OperationPtr> open;
  const auto add = [&](const OperationPtr& operation) {
    if (operation->flight.phase != Phase::settled) open.push_back(operation);
  };
  offers_.for_each(add);
  fences_.for_each(add);
  admission_.for_each(add);
  handshakes_.for_each(add);
  retries_.for_each(add);
  parts_.for_each(add);
  transfers_.for_each(add);
  for (std::size_t i = work_.executed; i < work_.commands.size(); ++i) {
    if (const auto* operation = std::get_if<Submission>(&work_.commands[i])) add(*operation);
  }
  for (const Event& event : work_.events) add(event.operation);
  for (const OperationPtr& operation : work_.operations) add(operation);
  return open;
}

void EngineLoop::close_operations() {
  for (const OperationPtr& operation : open_operations()) {
    operation->fail(operation->request.closed_failure());
    advance(operation);
  }
  // Those that waited for fences see that they have ended.
  poll_fences(Clock::time_point::max());
  poll_claims(Clock::now());
  settler_.give_back(state_.agent_lock);
}

std::vector<std::shared_ptr<Releasable>> EngineLoop::drop_transfers() {
  const std::vector<OperationPtr> open = open_operations();
  for (const OperationPtr& operation : open) operation->flight.detach();
  auto left = settler_.left();
  left.insert(left.end(), open.begin(), open.end());
  return left;
}

std::vector<std::shared_ptr<Releasable>> EngineLoop::abandon(const Failure& failure) {
  for (const OperationPtr& operation : open_operations()) {
    operation->progress.finish(OperationStatus::errored, failure);
  }
  auto left = drop_transfers();
  for (std::size_t i = work_.executed; i < work_.commands.size(); ++i) {
    if (auto* deregistration = std::get_if<Deregistration>(&work_.commands[i])) {
      left.push_back(deregistration->region);
    }
  }
  return left;
}

NIXL_CONNECT_NAMESPACE_END
