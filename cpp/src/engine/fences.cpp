#include "engine/fences.h"

#include <exception>

NIXL_CONNECT_NAMESPACE_BEGIN

bool Fences::passed(Operation& operation) {
  auto& fences = operation.flight.fences;
  Progress& progress = operation.progress;
  const auto fail = [&](const char* why) {
    progress.finish(OperationStatus::errored,
                    Failure{ErrorCode::backend, operation.request.describe() + ": " + why});
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

void Fences::add(OperationPtr operation) {
  operation->flight.phase = Phase::fenced;
  if (!operation->request.small) ++large_;
  waiting_.push_back(std::move(operation));
}

void Fences::poll(Clock::time_point until, std::vector<OperationPtr>& passed_ones) {
  bool any = false;
  for (std::size_t left = waiting_.size(); left > 0; --left) {
    if (any && Clock::now() >= until) break;
    OperationPtr operation = std::move(waiting_.front());
    waiting_.pop_front();
    if (passed(*operation)) {
      any = true;
      operation->flight.phase = Phase::fresh;
      if (!operation->request.small) --large_;
      passed_ones.push_back(std::move(operation));
    } else {
      waiting_.push_back(std::move(operation));
    }
  }
}

NIXL_CONNECT_NAMESPACE_END
