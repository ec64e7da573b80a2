#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agent/agent.h"
#include "agent/memory_registry.h"
#include "agent/peer_table.h"
#include "engine/admission.h"
#include "engine/deadlines.h"
#include "engine/engine_state.h"
#include "engine/fences.h"
#include "engine/handshakes.h"
#include "engine/offers.h"
#include "engine/outbox.h"
#include "engine/pacer.h"
#include "engine/parts.h"
#include "engine/retries.h"
#include "engine/settler.h"
#include "engine/transfers.h"

NIXL_CONNECT_NAMESPACE_BEGIN

/// What an engine does: takes commands, polls, and moves each operation from phase to phase.
///
/// What belongs to NIXL lives here, on the thread's own stack, and so does not exist in a forked
/// child.
///
/// Thread safety: `run` for the engine's thread; the rest for whoever has the agent lock.
class EngineLoop {
 public:
  /// Makes the agent. `home` is this engine itself, to which others report that parts have ended.
  EngineLoop(EngineState& state, const NixlApi& api, std::shared_ptr<EnginePort> home);
  EngineLoop(const EngineLoop&) = delete;
  EngineLoop& operator=(const EngineLoop&) = delete;

  /// Until the mailbox is closed and the posted transfers have completed or had their grace.
  /// Returns what must not be released before this object is gone: the operations whose memory a
  /// transfer may still use, here or at a peer.
  std::vector<std::shared_ptr<Releasable>> run();
  /// After an exception from `run`: ends all operations, and returns them likewise.
  std::vector<std::shared_ptr<Releasable>> abandon(const Failure& failure);

  /// Takes the commands, polls, and ends what has passed its deadline, in that order: a deadline
  /// never beats a completion that is already there. Returns whether there was anything.
  bool round();
  /// Asks for what fences, NIXL and the peers have done, of which it leaves some for the next poll
  /// when `until` has passed; returns whether there was anything.
  bool poll(Clock::time_point until = Clock::time_point::max());
  /// Executes the commands, if each takes microseconds; otherwise returns false.
  bool execute_if_quick();
  /// Takes the operation as far as it comes within microseconds. Returns false, and does nothing,
  /// when it might take longer.
  bool submit_if_quick(const OperationPtr& operation);

  /// Whether a poll takes microseconds only: no large data may stream in meanwhile.
  bool polls_are_quick() const noexcept { return large() == 0; }
  /// Whether fences, peers or NIXL have something to do for us.
  bool pending(Clock::time_point now) const noexcept;
  /// By when there should be a poll for what a caller has begun now; never, when nothing is
  /// pending.
  Clock::time_point poll_needed(Clock::time_point now) const noexcept {
    return pacer_.poll_needed(load(now), now);
  }
  void driven_externally() noexcept { pacer_.driven_externally(); }
  bool is_driven_externally() const noexcept { return pacer_.is_driven_externally(Clock::now()); }
  /// Writes down what is held now.
  void count() noexcept;
  /// And for how long; looks at every operation.
  void count_ages(Clock::time_point now) noexcept;

  Agent& agent() noexcept { return agent_; }
  /// Registers what is not registered yet, in the CUDA context of the memory.
  MemoryRegistry::Lease acquire(const std::vector<Region>& regions);

 private:
  /// Those that have been taken from the mailbox.
  void execute_commands();
  void execute(Command& command);
  bool is_quick(const Operation& operation, Clock::time_point now) const noexcept;
  /// Takes the operation as far as it comes. Whatever is thrown ends it as failed.
  void advance(const OperationPtr& operation);
  void begin(const OperationPtr& operation);
  void offer(const OperationPtr& operation);
  /// What moves no data.
  void send_message(const OperationPtr& operation);
  void send_parts(const OperationPtr& operation);
  void part_ended(const OperationPtr& whole, std::optional<Failure> failure);
  /// A passive operation has ended on this side.
  void withdraw(const OperationPtr& operation);

  bool poll_fences(Clock::time_point until);
  bool poll_claims(Clock::time_point now);
  void take_notice(std::string_view sender, std::string_view message, Clock::time_point now);
  bool poll_notifications(Clock::time_point until);
  /// Polls for the one transfer in flight for a moment, if that has paid of late.
  void watch(Clock::time_point until);
  bool settle_events();
  bool expire_deadlines();

  /// As of `Settler`; and the whole that it is a part of goes on, if that is of this engine.
  void settle(const OperationPtr& operation, Outcome outcome = {});

  std::size_t large() const noexcept {
    return offers_.large() + transfers_.in_flight().large() + fences_.large();
  }
  Load load(Clock::time_point now) const noexcept;
  /// The same, and has new notification keys allow the delay that follows from it.
  Load publish_load(Clock::time_point now) noexcept;
  std::vector<OperationPtr> open_operations() const;
  /// The open operations, with their transfers given up.
  std::vector<std::shared_ptr<Releasable>> drop_transfers();
  /// The mailbox is closed: ends all operations.
  void close_operations();

  EngineState& state_;
  const std::shared_ptr<EnginePort> home_;
  /// In the order in which they need one another.
  Agent agent_;
  MemoryRegistry registry_;
  PeerTable peers_;
  Outbox outbox_;
  Offers offers_;
  Admission admission_;
  Handshakes handshakes_;
  Transfers transfers_;
  Retries retries_;
  Fences fences_;
  Parts parts_;
  Deadlines deadlines_;
  Pacer pacer_;
  Settler settler_;
  /// Whether registering host memory takes no longer for more of it, because nothing pins it.
  const bool registers_at_once_;
  bool closing_ = false;

  /// What is being worked at; empty between calls, but after an exception.
  struct Work {
    std::vector<Command> commands;
    /// Of the commands, those that have been executed; the last one may have thrown.
    std::size_t executed = 0;
    std::vector<std::pair<std::string, std::string>> messages;
    std::vector<Event> events;
    ClaimAnswers answers;
    std::vector<OperationPtr> operations;
  };
  Work work_;
};

NIXL_CONNECT_NAMESPACE_END
