#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "agent/peer_table.h"
#include "cuda/cuda_memory.h"
#include "engine/connection_state.h"
#include "engine/counters.h"
#include "engine/notification_router.h"
#include "nixl_connect/connector.h"

NIXL_CONNECT_NAMESPACE_BEGIN

class Engine;
class EngineLoop;

/// Keeps an object for ever. For forked children: a condition variable on which a thread of
/// the parent waited cannot be destroyed there.
template <typename T>
void leak(std::shared_ptr<T> object) {
  static_cast<void>(new std::shared_ptr<T>(std::move(object)));
}

/// A region that somebody has registered by hand, with each engine.
struct HeldRegion {
  std::vector<std::pair<std::shared_ptr<Engine>, MemoryRegistry::Lease>> leases;
  std::shared_ptr<const void> owner;
};

/// The thread that drives NIXL, and the mailbox through which everybody else asks it to.
///
/// NIXL is called by one thread at a time: whoever has the turn. Mostly that is the engine's
/// thread. A caller whose operation is small, quick and on host memory takes the turn itself when
/// it is free, and so saves itself two switches between threads; it never waits for it.
///
/// Everything that belongs to NIXL lives on the thread's own stack (`EngineLoop`), and so
/// does not exist in a forked child.
///
/// Thread safety: every member may be called from any thread.
class Engine : public std::enable_shared_from_this<Engine> {
 public:
  using Task = std::function<void(EngineLoop&)>;

  explicit Engine(ConnectorOptions options);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  /// Never in a forked child.
  ~Engine();

  const std::string& connector_name() const noexcept { return options_.name; }
  const ConnectorOptions& options() const noexcept { return options_; }
  std::string nixl_library() const;

  /// Starts the thread, once. Throws `closed` or `forked`.
  void start();
  bool notify_started(std::shared_ptr<CompletionQueue> queue, std::uint64_t token);
  bool check_started() const;
  void wait_started();

  /// Has the engine look at the operation: begin it if it is fresh, clean up if it has ended;
  /// here and now if that is quick and the engine is free. Starts the thread if need be. Throws
  /// `closed` or `forked`.
  void attend(std::shared_ptr<ConnectionState> operation);
  /// As `attend`; returns false instead of throwing, and starts nothing.
  bool attend_if_open(std::shared_ptr<ConnectionState> operation);
  /// Has the thread run the task, in turn. Returns false when the engine is closed: what the
  /// task was to undo is undone already.
  bool run(Task task);

  /// As `Connector::progress`.
  bool progress();
  /// Looks around on the calling thread until `there` says so, or `until` has passed, or looks are
  /// not quick any more. The engine's thread rests meanwhile.
  void look_until(const std::function<bool()>& there, Clock::time_point until);

  /// How long the news of an operation's end may wait for that of others: zero unless so many
  /// operations are about that nobody would notice.
  std::chrono::microseconds patience() const noexcept {
    return patience_.load(std::memory_order_relaxed);
  }

  /// Adds what it has done and holds. Waits for the turn, but not long.
  void add_stats(ConnectorStats& stats);

  /// Begins to close; nothing is accepted any more.
  void stop() noexcept;
  /// As `Connector::close`.
  void close() noexcept;
  bool closed() const noexcept { return closed_.load(std::memory_order_acquire); }

  /// Throws `forked` in a child of the process that started the thread.
  void check_process() const;
  bool in_forked_child() const noexcept;

 private:
  friend class EngineLoop;
  using Command = std::variant<std::shared_ptr<ConnectionState>, Task>;
  static constexpr clockid_t kNoClock = -1;
  enum class Start : std::uint8_t { idle, starting, started, failed };

  /// The right to call NIXL, with a context of CUDA's if it has to do with GPUs. A thread that has
  /// one does not get another, whatever runs in it.
  class Turn {
   public:
    explicit Turn(Engine& engine);
    Turn(Engine& engine, std::try_to_lock_t);
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn();
    explicit operator bool() const noexcept { return lock_.owns_lock(); }
    void enter_context();

   private:
    Engine& engine_;
    std::unique_lock<std::mutex> lock_;
    std::optional<CudaContext> context_;
  };

  void take_commands(std::vector<Command>& commands);
  bool look_once();
  bool is_driven();
  bool attend_here(const std::shared_ptr<ConnectionState>& operation);
  void start_locked();
  bool push(Command command, bool or_throw);
  void thread_main() noexcept;
  void run_loop() noexcept;
  void report_started(Start outcome, std::optional<Failure> failure);
  /// How the thread spends the time until its next look, and what ends it before.
  enum class Pause : std::uint8_t {
    none,
    rest,     ///< Nothing: what comes meanwhile is taken at the next look, all at once.
    standby,  ///< Commands: callers look around while they come and go.
    away,     ///< Commands: a waiter looks around; and when it has gone, as `sleep`.
    sleep,    ///< Whatever there is to do.
  };
  struct Look {
    Clock::time_point at;
    Pause pause = Pause::sleep;
  };

  /// Pauses until the look is due or something ends the pause.
  void pause(Look look, bool& stop);
  /// There is something to look at.
  void nudge();

  const ConnectorOptions options_;
  EngineCounters counters_;
  /// The thread's, while it runs; and what it has used, when it does not any more.
  std::atomic<clockid_t> cpu_clock_{kNoClock};
  std::atomic<std::chrono::nanoseconds> cpu_used_{std::chrono::nanoseconds::zero()};

  std::mutex turn_;
  /// While the thread runs it; for whoever has the turn.
  EngineLoop* loop_ = nullptr;
  /// Of the first memory on a GPU that was seen; for whoever has the turn, too.
  cuda::Context* cuda_context_ = nullptr;
  Turn* current_turn_ = nullptr;

  std::atomic<bool> closed_{false};
  std::atomic<pid_t> process_{0};

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable started_;
  std::vector<Command> mailbox_;
  /// Written with the lock held.
  std::atomic<Pause> pause_{Pause::none};
  /// There is something new to look at, without a command.
  std::atomic<bool> nudged_{false};
  std::atomic<std::chrono::microseconds> patience_{std::chrono::microseconds::zero()};
  /// Threads that look around while they wait.
  std::atomic<int> lookers_{0};
  bool stopping_ = false;
  std::atomic<Start> start_{Start::idle};
  std::optional<Failure> start_failure_;
  std::vector<std::pair<std::shared_ptr<CompletionQueue>, std::uint64_t>> start_watchers_;
  std::unique_ptr<std::thread> thread_;
  std::string nixl_library_;

  std::mutex close_mutex_;
};

/// What of NIXL's the engine owns, and the work of one turn.
///
/// Thread safety: all but the constructor and `run` is for whoever has the turn.
class EngineLoop {
 public:
  EngineLoop(Engine& engine, const NixlApi& api);
  EngineLoop(const EngineLoop&) = delete;
  EngineLoop& operator=(const EngineLoop&) = delete;

  /// Until the engine is to stop and the posted transfers have ended or had their grace.
  /// Returns the operations whose memory a transfer may still use, here or at a peer; it may
  /// be let go when this object is gone.
  std::vector<std::shared_ptr<ConnectionState>> run();
  /// After an exception from `run`: ends all operations, and returns them likewise.
  std::vector<std::shared_ptr<ConnectionState>> abandon(const Failure& failure);

  /// Does what the commands say, and looks at what NIXL, the peers and the clock have done; returns
  /// whether there was anything.
  bool turn();
  /// Looks at what NIXL and the peers have done, of which it leaves some for the next look when
  /// `until` has passed; returns whether there was anything.
  bool look_around(Clock::time_point until = Clock::time_point::max());
  /// Whether a look takes microseconds only: no large data may stream in meanwhile.
  bool looks_are_quick() const noexcept { return large_ == 0; }
  /// `Connector::progress` has had its turn: it will again.
  void driven() noexcept;
  bool is_driven() const noexcept;
  /// The operations that have landed, for whoever has had the turn to release after it: their
  /// memory is not registered any more.
  std::vector<std::shared_ptr<ConnectionState>> take_landed() noexcept;

  /// Takes the operation as far as it comes within microseconds. Returns false, and does
  /// nothing, when it might take longer.
  bool attend_if_quick(const std::shared_ptr<ConnectionState>& operation);

  /// Whether a peer or NIXL has something to do for us.
  bool pending() const noexcept {
    return !router_.empty() || !flights_.empty() || !fenced_.empty() || !untold_.empty() ||
           Clock::now() < attentive_until_;
  }

  /// A part has come to its end, and its memory is free.
  void part_ended(const std::shared_ptr<ConnectionState>& whole, const ConnectionState& part);

  Agent& agent() noexcept { return agent_; }
  MemoryRegistry& registry() noexcept { return registry_; }
  /// Registers what of it is not registered yet, in the context of its memory.
  MemoryRegistry::Lease hold(const std::vector<Region>& regions);
  /// Writes down what is held now.
  void count() noexcept;

 private:
  using Operation = std::shared_ptr<ConnectionState>;

  void attend(const Operation& operation);
  void take_further(const Operation& operation);
  /// Whether all that the operation was to wait for has happened, or it has ended.
  bool fences_passed(const Operation& operation);
  /// Takes further what waits no more, of which some is left when `until` has passed; returns
  /// whether there was any.
  bool poll_fences(Clock::time_point until);
  /// A passive operation has ended without a word from its peer. Its memory stays registered
  /// for a while if a peer may have been told of it.
  void withdraw(const Operation& operation);
  void offer(const Operation& operation);
  /// What NIXL needs for these regions if this thread has not got it; null if it has, or none are
  /// of a GPU. This turn and all later ones have that of the first such: it is enough to deregister
  /// memory, and to look whether some has moved.
  cuda::Context* context_to_enter(const std::vector<Region>& regions);
  cuda::Context* context_to_enter(const ConnectionState& operation);
  void begin(const Operation& operation);
  /// Has the other engines move the operation's parts.
  void send_parts(const Operation& operation);
  void cancel_parts(const ConnectionState& operation);
  /// A transfer to this agent itself uses the registrations of whoever offers the memory.
  void hold_own(ConnectionState& operation);
  /// What to send to a peer that may use these regions.
  std::string blob_of(const std::vector<Region>& regions);

  /// Looks at one of the flights; returns whether it has ended, and is in `flights_` no more.
  bool poll_transfer(std::size_t index);
  bool poll_transfers(Clock::time_point until);
  /// Looks after the one transfer in flight for a moment, if that has paid of late.
  void see_through(Clock::time_point until);
  /// Whether it is throughput that counts now.
  bool busy() const noexcept;
  /// How long to leave NIXL alone between two looks while operations come and go: a fraction of
  /// what they take anyway is not missed, and each look then finds more.
  Clock::duration rest_between_looks() const noexcept;
  std::chrono::microseconds patience() const noexcept;
  bool poll_notifications(Clock::time_point until);
  bool expire_deadlines();
  Engine::Look next_look(bool worked);

  /// Tells the operation's peer of its end, when its patience is over.
  void tell_success(const ConnectionState& operation);
  /// Tells the peers that wait for it, if it is time.
  void tell_if_due();
  void tell_all();

  void complete(const Operation& operation);
  /// As `land`, of an operation that did not succeed: the peer is told.
  void abort(const Operation& operation);
  /// NIXL is done with the operation's transfer, or never had one: lets go of everything.
  void land(const Operation& operation);
  void fail(const Operation& operation, Failure failure);
  /// The transfer has failed, and with it the peer as it is loaded.
  void break_off(const Operation& operation, const AgentError& error);
  /// The error of an active operation whose NIXL call failed.
  Failure transfer_failure(const ConnectionState& operation, const AgentError& error) const;
  void tell_failure(const ConnectionState& operation);
  void forget_deadline(ConnectionState& operation);
  std::vector<Operation> open_operations() const;
  /// The open operations, with all that they hold of NIXL given back.
  std::vector<Operation> ground();
  void stop_operations();

  Engine& engine_;
  EngineCounters& counters_;
  Agent agent_;
  MemoryRegistry registry_;
  PeerTable peers_;
  NotificationRouter router_;
  /// The agent's connection information; null when this NIXL writes it in an unknown form.
  std::shared_ptr<const Blob> connections_;
  std::shared_ptr<const MetadataEncoder> encoder_;

  std::vector<Engine::Command> commands_;
  std::vector<Operation> landed_;
  /// What they held of the registry.
  MemoryRegistry::Lease leases_;
  /// Operations that wait for their fences, in the order of their coming.
  std::vector<Operation> fenced_;
  /// Operations whose parts are under way.
  std::set<Operation> split_;
  /// The posted transfers, in the order of their posting.
  std::deque<Operation> flights_;
  /// Where among them the last look ended.
  std::size_t flight_cursor_ = 0;
  ConnectionState::Deadlines deadlines_;
  std::vector<std::pair<std::string, std::string>> messages_;
  Clock::time_point last_work_;
  /// Successes of which the peers have not been told, by peer; few at a time.
  struct Untold {
    std::shared_ptr<Peer> peer;
    std::vector<std::string> keys;
    /// Whether more may join: owners without patience may not know notices of many.
    bool open = false;
    int refusals = 0;
  };
  std::vector<Untold> untold_;
  /// When the first of them is due.
  Clock::time_point untold_due_;
  /// When peers were told last.
  Clock::time_point told_last_;
  /// What the peers that showed any have of patience, and how long ago is too long.
  std::chrono::microseconds peers_patience_{0};
  Clock::time_point patient_until_;
  /// What has been sent without a transfer may still need NIXL to be called.
  Clock::time_point attentive_until_;
  /// How long operations have taken of late, from their beginning to their end.
  std::chrono::duration<double> typical_age_{0};
  int looks_since_start_ = 0;
  int skips_ = 0;
  int to_skip_ = 0;
  Clock::time_point last_look_;
  Clock::time_point last_driven_;
  Clock::time_point not_quick_until_;
  Clock::duration not_quick_pause_;
  /// Operations that are fenced, offered or flying and not small.
  std::size_t large_ = 0;
  bool stopping_ = false;
};

NIXL_CONNECT_NAMESPACE_END
