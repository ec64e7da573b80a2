#include "engine/engine_loop.h"

#include <algorithm>
#include <thread>

#include "agent/advice.h"
#include "nixl_connect/error.h"
#include "system/rdma_devices.h"

NIXL_CONNECT_NAMESPACE_BEGIN

EngineLoop::EngineLoop(EngineState& state, const NixlApi& api, std::shared_ptr<EnginePort> home)
    : state_(state),
      home_(std::move(home)),
      agent_(api, unique_agent_name(state.options.name), state.options.backend,
             state.options.backend_parameters, state.options.progress_thread),
      registry_(agent_),
      peers_(agent_, state.options.backend, state.options.max_peer_keys, state.options.max_peers),
      outbox_(agent_, peers_, state.counters),
      offers_(agent_, registry_, state.options.foreign_peers, state.options.max_linger_bytes),
      admission_(peers_, outbox_),
      handshakes_(peers_, outbox_, admission_, offers_),
      transfers_(agent_, registry_, peers_, offers_),
      retries_(peers_, registry_, admission_),
      pacer_(state.options.spin, state.options.max_pause, Clock::now()),
      settler_(
          {state.counters, registry_, peers_, outbox_, offers_, admission_, deadlines_, pacer_}),
      // UCX has loaded what it uses.
      registers_at_once_(state.options.backend == "UCX" && !registering_pins()) {}

std::vector<std::shared_ptr<Releasable>> EngineLoop::run() {
  Wait wait{Clock::now(), Wait::Mode::none};
  Clock::time_point grace_ends = Clock::time_point::max();
  while (true) {
    const bool closed = state_.mailbox.wait(wait);
    {
      const AgentLock::Guard guard(state_.agent_lock);
      const bool closes_now = closed && !closing_;
      if (closes_now) {
        closing_ = true;
        grace_ends = Clock::now() + state_.options.close_grace;
      }
      const bool worked = round();
      if (closes_now) close_operations();
      const auto now = Clock::now();
      if (closing_) {
        outbox_.flush(now);
        const bool at_rest = transfers_.in_flight().empty() && parts_.empty() &&
                             !outbox_.is_hopeful() && now >= outbox_.flush_until() &&
                             !offers_.is_any_in_use() && !settler_.holds_memory();
        if (at_rest || now >= grace_ends) return drop_transfers();
      }
      if (worked) pacer_.worked(now);
      const Load present = publish_load(now);
      wait = pacer_.next(present, now);
      state_.mailbox.announce(wait);
    }
    // Whoever waits for a processor, or for the agent lock, goes first.
    if (wait.mode == Wait::Mode::none) std::this_thread::yield();
  }
}

bool EngineLoop::round() {
  state_.mailbox.take(work_.commands);
  bool worked = !work_.commands.empty();
  execute_commands();
  const auto now = Clock::now();
  if (pacer_.polled_enough(load(now), now)) {
    outbox_.send_due(now);
  } else {
    worked |= poll();
  }
  worked |= expire_deadlines();
  settler_.give_back(state_.agent_lock);
  return worked;
}

void EngineLoop::execute_commands() {
  while (work_.executed < work_.commands.size()) execute(work_.commands[work_.executed++]);
  work_.commands.clear();
  work_.executed = 0;
}

void EngineLoop::execute(Command& command) {
  if (const auto* operation = std::get_if<Submission>(&command)) {
    advance(*operation);
  } else if (auto* part = std::get_if<PartEnded>(&command)) {
    part_ended(part->whole, std::move(part->failure));
  } else if (auto* deregistration = std::get_if<Deregistration>(&command)) {
    registry_.release(deregistration->lease);
    state_.agent_lock.release_later(std::move(deregistration->region));
  } else {
    std::get<Task>(command)(*this);
  }
}

void EngineLoop::advance(const OperationPtr& operation) {
  Flight& flight = operation->flight;
  try {
    switch (flight.phase) {
      case Phase::fresh:
        if (operation->request.time_limit && !operation->progress.ended() && !flight.deadline) {
          deadlines_.set(operation, operation->request.began + *operation->request.time_limit);
        }
        if (Fences::passed(*operation)) {
          begin(operation);
        } else {
          fences_.add(operation);
        }
        break;
      case Phase::offered:
        if (operation->progress.ended()) withdraw(operation);
        break;
      case Phase::split:
        if (operation->progress.ended()) Parts::cancel(*operation);
        break;
      case Phase::fenced:     // The next poll of the fences sees what has become of it,
      case Phase::claiming:   // or that of the claims does,
      case Phase::lingering:  // or a peer may still use the memory,
      case Phase::in_flight:  // or NIXL does,
      case Phase::settled:    // or nothing is left to do.
        break;
    }
  } catch (const std::exception& error) {
    // Out of memory, most likely; what else can go wrong is handled where it does.
    settle(operation, Outcome::failed({ErrorCode::backend,
                                       operation->request.describe() + ": " + error.what()}));
  }
}

void EngineLoop::begin(const OperationPtr& operation) {
  const Request& request = operation->request;
  if (!request.passive && !request.connects && !operation->flight.admitted) {
    if (auto failure = admission_.ask(operation)) {
      operation->flight.parts.clear();
      settle(operation, Outcome::failed(std::move(*failure)));
      return;
    }
    if (operation->flight.phase == Phase::claiming) return;
  }
  if (!operation->flight.parts.empty()) {
    if (!closing_) {
      send_parts(operation);
      return;
    }
    // The other engines are closed already.
    operation->fail(request.closed_failure());
    operation->flight.parts.clear();
  }
  const bool on_device = request.on_device;
  const CudaContext context(
      on_device ? state_.agent_lock.context_to_enter(operation->flight.local_regions) : nullptr);
  if (operation->progress.ended() && (request.passive || request.connects)) {
    settle(operation);
  } else if (!request.moves_data() && !operation->progress.ended()) {
    send_message(operation);
  } else if (request.passive) {
    offer(operation);
  } else if (auto outcome = transfers_.begin(operation)) {
    settle(operation, std::move(*outcome));
  }
}

void EngineLoop::send_message(const OperationPtr& operation) {
  const auto now = Clock::now();
  auto outcome = operation->request.connects ? handshakes_.begin(operation, now)
                                             : admission_.decline(*operation, now);
  if (outcome) settle(operation, std::move(*outcome));
}

void EngineLoop::offer(const OperationPtr& operation) {
  try {
    if (auto failure = offers_.open(operation))
      settle(operation, Outcome::failed(std::move(*failure)));
  } catch (const AgentError& error) {
    settle(operation, Outcome::failed({ErrorCode::backend,
                                       operation->request.describe() +
                                           ": the memory could not be registered: " + error.what() +
                                           registration_advice(operation->flight.local_regions)}));
  }
}

void EngineLoop::withdraw(const OperationPtr& operation) {
  // Until the agent goes, when it is closing: what touches memory without claims goes with it.
  const auto linger =
      closing_ ? Clock::duration(std::chrono::hours(1)) : Clock::duration(state_.options.linger);
  deadlines_.remove(*operation);
  if (!offers_.withdraw(operation, Clock::now(), linger)) settle(operation);
}

void EngineLoop::send_parts(const OperationPtr& operation) {
  for (const OperationPtr& part : parts_.send(operation, home_)) {
    settler_.drop(part);
    part_ended(operation, part->progress.failure());
  }
}

void EngineLoop::part_ended(const OperationPtr& whole, std::optional<Failure> failure) {
  if (parts_.ended(whole, std::move(failure))) advance(whole);
}

bool EngineLoop::poll(Clock::time_point until) {
  bool worked = poll_fences(until);
  const auto began = Clock::now();
  worked |= poll_claims(began);
  transfers_.poll(until, work_.events);
  worked |= settle_events();
  outbox_.send_due(began);
  worked |= poll_notifications(until);
  const auto now = Clock::now();
  offers_.review(now, work_.events);
  worked |= settle_events();
  pacer_.polled(now);
  settler_.give_back(state_.agent_lock);
  return worked || Pacer::was_long(began, now);
}

bool EngineLoop::poll_fences(Clock::time_point until) {
  if (fences_.empty()) return false;
  fences_.poll(until, work_.operations);
  for (const OperationPtr& operation : work_.operations) advance(operation);
  const bool worked = !work_.operations.empty();
  work_.operations.clear();
  return worked;
}

bool EngineLoop::poll_claims(Clock::time_point now) {
  admission_.send(offers_.connection_information(), now);
  admission_.poll(now, work_.operations);
  retries_.poll(now, work_.operations);
  handshakes_.poll(now, work_.events);
  settle_events();
  for (const OperationPtr& operation : work_.operations) advance(operation);
  const bool worked = !work_.operations.empty();
  work_.operations.clear();
  return worked;
}

bool EngineLoop::poll_notifications(Clock::time_point until) {
  auto& messages = work_.messages;
  try {
    agent_.take_notifications(messages);
  } catch (const AgentError&) {
    // The next poll tries again; the operations have their deadlines.
  }
  if (messages.empty()) return false;
  std::size_t taken = 0;
  for (const auto& [sender, message] : messages) {
    if (taken > 0 && Clock::now() >= until) break;
    ++taken;
    take_notice(sender, message, Clock::now());
  }
  messages.erase(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(taken));
  return true;
}

void EngineLoop::take_notice(std::string_view sender, std::string_view message,
                             Clock::time_point now) {
  const Notice notice = Notice::read(message);
  if (notice.kind == Notice::Kind::answer) {
    admission_.take(sender, notice);
    handshakes_.take(sender, notice, work_.events);
    settle_events();
  } else if (notice.kind == Notice::Kind::claim) {
    work_.answers.clear();
    offers_.answer(sender, notice, now, work_.answers);
    try {
      admission_.reply(notice, work_.answers, now);
    } catch (const std::exception&) {
      // Who cannot be answered has its deadline; and its places are free again when it is silent.
    }
  } else {
    offers_.take(sender, notice, now, work_.events);
    settle_events();
  }
}

bool EngineLoop::settle_events() {
  for (auto& [operation, outcome] : work_.events) {
    // One message may tell the same twice.
    if (operation->flight.phase != Phase::settled) settle(operation, std::move(outcome));
  }
  const bool any = !work_.events.empty();
  work_.events.clear();
  return any;
}

bool EngineLoop::expire_deadlines() {
  if (deadlines_.empty()) return false;
  const auto now = Clock::now();
  if (deadlines_.next() > now) return false;
  deadlines_.take_due(now, work_.operations);
  for (const OperationPtr& operation : work_.operations) {
    const Flight& flight = operation->flight;
    if (flight.phase == Phase::lingering) continue;
    const std::string advice =
        flight.phase == Phase::in_flight ? cuda_memory_advice(flight.local_regions) : "";
    const char* was = flight.phase == Phase::fenced     ? "the work that it waits for is not done"
                      : operation->request.connects     ? "the peer has not answered"
                      : flight.phase == Phase::claiming ? "the peer has not let it begin"
                      : operation->request.passive      ? "no peer has completed it"
                                                        : "the transfer has not ended";
    operation->fail({ErrorCode::timed_out, operation->request.describe() + ": the deadline of " +
                                               in_seconds(*operation->request.time_limit) +
                                               " passed, and " + was + advice});
    advance(operation);
  }
  work_.operations.clear();
  return true;
}

MemoryRegistry::Lease EngineLoop::acquire(const std::vector<Region>& regions) {
  const CudaContext context(state_.agent_lock.context_to_enter(regions));
  auto lease = registry_.acquire(regions);
  // Whoever waits for this may ask for figures before the agent lock is free.
  count();
  return lease;
}

Load EngineLoop::load(Clock::time_point now) const noexcept {
  return {offers_.size() + transfers_.in_flight().size() + admission_.size() + handshakes_.size(),
          large(), pending(now), state_.polling_waiters.load(std::memory_order_relaxed) > 0,
          std::min({deadlines_.next(), outbox_.due(), settler_.next()})};
}

Load EngineLoop::publish_load(Clock::time_point now) noexcept {
  const Load present = load(now);
  state_.notice_delay.store(pacer_.notice_delay(present), std::memory_order_relaxed);
  return present;
}

bool EngineLoop::pending(Clock::time_point now) const noexcept {
  return !offers_.empty() || !transfers_.in_flight().empty() || !fences_.empty() ||
         !outbox_.empty() || !admission_.empty() || !handshakes_.empty() || !retries_.empty() ||
         now < outbox_.flush_until();
}

void EngineLoop::settle(const OperationPtr& operation, Outcome outcome) {
  const bool may_retry = outcome.peer_broken && !outcome.at_fault && !closing_;
  if (may_retry && retries_.take(operation, settler_)) return;
  settler_.settle(operation, std::move(outcome));
  if (operation->flight.retried) retries_.ended(*operation);
  Flight::Whole& whole = operation->flight.whole;
  if (whole.operation != nullptr && whole.engine == nullptr) {
    part_ended(std::exchange(whole, {}).operation, operation->progress.failure());
  }
}

void EngineLoop::count() noexcept {
  EngineCounters& counters = state_.counters;
  counters.fenced.set(fences_.size());
  counters.waiting.set(offers_.size());
  counters.in_flight.set(transfers_.in_flight().size());
  counters.registered_regions.set(registry_.size());
  counters.peers.set(peers_.size());
  counters.lingering.set(offers_.lingering());
  counters.lingering_bytes.set(offers_.lingering_bytes());
  counters.notifications_matched.set(offers_.matched());
  counters.notifications_unknown.set(offers_.unknown());
}

void EngineLoop::count_ages(Clock::time_point now) noexcept {
  auto oldest = now;
  const auto look_at = [&](const OperationPtr& operation) {
    if (operation->flight.phase != Phase::lingering) {
      oldest = std::min(oldest, operation->request.began);
    }
  };
  const auto age = [&] { return static_cast<std::uint64_t>((now - oldest).count()); };
  offers_.for_each(look_at);
  state_.counters.oldest_waiting.set(age());
  oldest = now;
  transfers_.in_flight().for_each(look_at);
  state_.counters.oldest_in_flight.set(age());
}

NIXL_CONNECT_NAMESPACE_END
