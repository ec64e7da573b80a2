#include "engine/fences.h"

#include <exception>

NIXL_CONNECT_NAMESPACE_BEGIN

bool Fences::passed(Operation& operation) {
  auto& fences = operation.flight.fences;
  Progress& progress = operation.progress;
  const auto fail = [&](const char* why) {
    operation.fail({ErrorCode::backend, operation.request.describe() + ": " + why});
  };
  try {
    while (!progress.ended() && !fences.empty() && fences.back()()) fences.pop_back();
  } catch (const std::exception& error) {
    fail(error.what());
  } catch (...) {
    fail("a fence has failed");
  }
  if (progress.ended()) fences.clear();
  return fences.empty();
}

void Fences::add(const OperationPtr& operation) {
  waiting_.push_back(operation);
  operation->flight.phase = Phase::fenced;
  if (!operation->request.small) ++large_;
}

void Fences::poll(Clock::time_point until, std::vector<OperationPtr>& passed_ones) {
  bool any = false;
  for (std::size_t left = waiting_.size(); left > 0; --left) {
    if (any && Clock::now() >= until) break;
    // It leaves its place last: the rest may throw.
    const OperationPtr& operation = waiting_.front();
    if (passed(*operation)) {
      passed_ones.push_back(operation);
      any = true;
      operation->flight.phase = Phase::fresh;
      if (!operation->request.small) --large_;
    } else {
      waiting_.push_back(operation);
    }
    waiting_.pop_front();
  }
}

NIXL_CONNECT_NAMESPACE_END
