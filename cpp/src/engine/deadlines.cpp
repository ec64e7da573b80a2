#include "engine/deadlines.h"

#include "engine/operation.h"

NIXL_CONNECT_NAMESPACE_BEGIN

void Deadlines::set(const std::shared_ptr<Operation>& operation, Clock::time_point when) {
  remove(*operation);
  // Most come in the order of their times.
  operation->flight.deadline = entries_.emplace_hint(entries_.end(), when, operation);
}

void Deadlines::remove(Operation& operation) {
  auto& place = operation.flight.deadline;
  if (!place) return;
  entries_.erase(*place);
  place.reset();
}

void Deadlines::take_due(Clock::time_point now, std::vector<std::shared_ptr<Operation>>& due) {
  while (!entries_.empty() && entries_.begin()->first <= now) {
    due.push_back(std::move(entries_.begin()->second));
    due.back()->flight.deadline.reset();
    entries_.erase(entries_.begin());
  }
}

NIXL_CONNECT_NAMESPACE_END
