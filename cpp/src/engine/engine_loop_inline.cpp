// What callers do themselves, with the agent lock, instead of the engine's thread.
#include <thread>

#include "engine/engine_loop.h"
#include "system/process.h"

NIXL_CONNECT_NAMESPACE_BEGIN

bool EngineLoop::execute_if_quick() {
  const auto now = Clock::now();
  const auto is_quick_one = [&](const Command& command) {
    const auto* operation = std::get_if<Submission>(&command);
    return operation != nullptr && is_quick(**operation, now);
  };
  if (!state_.mailbox.take_if(work_.commands, is_quick_one)) return false;
  execute_commands();
  return true;
}

bool EngineLoop::is_quick(const Operation& operation, Clock::time_point now) const noexcept {
  const Request& request = operation.request;
  const bool offered_at_once = registers_at_once_ && request.passive && request.few_on_host;
  if (!(request.small || offered_at_once) || !pacer_.may_begin_inline(now)) return false;
  // What has ended is not begun. To post is to poll, which can take as long as large data stream
  // in.
  return operation.flight.phase != Phase::fresh || request.passive ||
         (polls_are_quick() && peers_.knows(operation.flight.remote));
}

bool EngineLoop::submit_if_quick(const OperationPtr& operation) {
  const auto began = Clock::now();
  if (!is_quick(*operation, began)) return false;
  const bool begins = operation->flight.phase == Phase::fresh;
  advance(operation);
  if (!begins) {
    settler_.give_back(state_.agent_lock);
    return true;
  }
  const auto now = Clock::now();
  // What something else had the processor for is no slowness.
  pacer_.began_inline(Pacer::is_slow(now - began) && lost_processor() ? now : began, now);
  const Load present = publish_load(now);
  // Who drives the engine polls soon anyway.
  if (present.large == 0 && !pacer_.is_driven_externally(now)) {
    if (pacer_.may_poll_inline(present, now)) {
      poll(Pacer::inline_poll_ends(now));
      pacer_.polled_inline();
    } else if (transfers_.in_flight().is_only(*operation) && pacer_.may_watch(present)) {
      watch(Pacer::watch_ends(now));
    }
  }
  settler_.give_back(state_.agent_lock);
  return true;
}

void EngineLoop::watch(Clock::time_point until) {
  bool completed = false;
  while (true) {
    transfers_.poll_only(work_.events);
    completed = settle_events();
    if (completed || Clock::now() >= until) break;
    // The peer's engine may want this very processor.
    std::this_thread::yield();
  }
  pacer_.watched(completed);
}

NIXL_CONNECT_NAMESPACE_END
