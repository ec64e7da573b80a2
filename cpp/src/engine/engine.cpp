#include "engine/engine.h"

#include <pthread.h>
#include <sys/prctl.h>
#include <sys/random.h>

#include <csignal>
#include <cstdio>

#include "cuda/cuda_memory.h"
#include "nixl_connect/error.h"
#include "system/process.h"
#include "wire/hex.h"
#include "wire/notification.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// With nothing pending: a late peer that still needs an answer gets one.
constexpr auto kIdlePause = std::chrono::milliseconds(250);
/// The shortest sleep that is worth the wake-up.
constexpr auto kShortestPause = std::chrono::microseconds(20);
/// A pause is this fraction of the time since something last happened; a long one, the smaller.
constexpr int kPauseFraction = 8;
constexpr int kLongPauseFraction = 64;
/// While large operations are about, whose time an end that is seen late adds to.
constexpr int kLargePauseFraction = 32;
constexpr auto kLongPause = std::chrono::milliseconds(1);
/// A look that took longer has moved something: without RDMA, a peer's data pass through here.
constexpr auto kLongLook = std::chrono::microseconds(400);
/// While operations come and go, a rest is this fraction of what they take, and at most so long;
/// with many at once, when it is throughput that counts, the larger one.
constexpr int kRestFraction = 64;
constexpr int kBusyRestFraction = 16;
constexpr std::size_t kManyOperations = 8;
constexpr auto kLongestRest = std::chrono::microseconds(100);
constexpr auto kLongestBusyRest = std::chrono::microseconds(1000);
/// Whoever takes longer makes no rest any longer.
constexpr auto kLongestAge = kLongestBusyRest * kBusyRestFraction;
/// How many transfers that have not ended are asked after at a look, at each of two places.
constexpr std::size_t kAskedAfter = 2;
/// After so many looks the asking in turn begins anew.
constexpr int kLooksUntilStart = 256;
/// How many operations what they take is averaged over.
constexpr double kAgeMemory = 32;
/// How long NIXL is called for a notice that was sent to a peer; to one that may have to be
/// connected first.
constexpr auto kNoticeTime = std::chrono::milliseconds(5);
constexpr auto kFirstNoticeTime = std::chrono::milliseconds(100);
/// When registering and beginning has taken a caller longer than this, the engine's thread does it
/// for a while: for longer each time in a row, as on a host whose drivers are slow, and not for
/// long when the caller just lost its processor.
constexpr auto kQuick = std::chrono::microseconds(250);
constexpr Clock::duration kFirstNotQuickPause = std::chrono::milliseconds(1);
constexpr Clock::duration kNotQuickPause = std::chrono::milliseconds(128);
/// For so long the engine's thread leaves the work to whoever has called `progress` last, but for a
/// look at each of these intervals.
constexpr auto kDrivenFor = std::chrono::milliseconds(20);
constexpr auto kDrivenPause = std::chrono::milliseconds(2);
/// How long whoever asks for figures waits for the turn.
constexpr auto kStatsPatience = std::chrono::milliseconds(1);
/// How often a caller tries to get the turn: the time of a look or two that find nothing.
constexpr int kTurnTries = 200;
/// After so many successes a peer is told, whatever its patience.
constexpr std::size_t kMostUntold = 64;
/// A notice that NIXL refuses is tried so often, after such a pause.
constexpr int kMostRefusals = 10;
constexpr auto kRefusalPause = std::chrono::milliseconds(1);
/// A peer that has shown patience goes on having it for so long.
constexpr auto kPatienceLasts = std::chrono::milliseconds(2);
/// How long a caller looks after its own transfer before it leaves it to the thread: as long as a
/// peer that is awake takes to answer.
constexpr auto kPatience = std::chrono::microseconds(60);
/// How many transfers it leaves alone at most after it has lost patience again and again.
constexpr int kMostSkips = 63;

/// Whether this thread has an engine's turn.
thread_local bool in_turn = false;

/// The process that started UCX, whose threads and descriptors a forked child has no use of:
/// transfers that are begun there with an agent of the child's own never end (seen with UCX
/// 1.23).
std::atomic<pid_t> ucx_process{0};

std::string seconds(std::chrono::nanoseconds duration) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g s", std::chrono::duration<double>(duration).count());
  return text;
}

std::chrono::nanoseconds time_of(clockid_t clock) {
  timespec time{};
  // A thread's clock is gone when the thread is.
  if (::clock_gettime(clock, &time) != 0) return {};
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

std::string unique_suffix() {
  std::uint64_t bits = 0;
  if (::getrandom(&bits, sizeof bits, 0) != sizeof bits) {
    bits = static_cast<std::uint64_t>(Clock::now().time_since_epoch().count());
  }
  return to_hex({reinterpret_cast<const char*>(&bits), sizeof bits});
}

/// Blocks all signals on this thread, which those that it starts inherit: signals are for the
/// program's own threads.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &previous_);
  }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &previous_, nullptr); }

 private:
  sigset_t previous_;
};

/// What peers write, made fit to be shown.
std::string printable(std::string text) {
  for (char& c : text) {
    if (c < ' ' || c > '~') c = '?';
  }
  return text;
}

/// Nobody uses the operation's memory any more. Without the turn.
void release(const std::shared_ptr<ConnectionState>& operation) {
  operation->let_go();
  if (const auto whole = std::exchange(operation->whole, nullptr)) {
    whole->engine->run(
        [whole, operation](EngineLoop& loop) { loop.part_ended(whole, *operation); });
  }
}

Failure closed_failure(const std::string& what) {
  return {ErrorCode::closed, what + ": the connector was closed"};
}

}  // namespace

// Engine: what other threads see.

Engine::Engine(ConnectorOptions options) : options_(std::move(options)) {}

Engine::~Engine() { close(); }

bool Engine::in_forked_child() const noexcept {
  const pid_t process = process_.load(std::memory_order_relaxed);
  return process != 0 && process != this_process();
}

void Engine::check_process() const {
  if (in_forked_child()) {
    throw Error(ErrorCode::forked,
                "connector '" + options_.name +
                    "': was started in the parent of this forked process, and works only there; "
                    "fork before the first use of a connector, or spawn instead");
  }
}

void Engine::start_locked() {
  if (start_ != Start::idle) return;
  const pid_t here = this_process();
  pid_t starter = 0;
  if (!ucx_process.compare_exchange_strong(starter, here) && starter != here) {
    throw Error(ErrorCode::forked,
                "connector '" + options_.name +
                    "': cannot start, because this process was forked from one in which a "
                    "connector had been used, and UCX does not survive that; fork before the "
                    "first use of a connector, or spawn instead");
  }
  process_.store(here, std::memory_order_relaxed);
  stay_loaded();
  try {
    const SignalsBlocked for_the_new_thread;
    thread_ = std::make_unique<std::thread>([this] { thread_main(); });
  } catch (const std::system_error& error) {
    process_.store(0, std::memory_order_relaxed);
    throw Error(ErrorCode::backend,
                std::string("the engine's thread could not be started: ") + error.what());
  }
  start_ = Start::starting;
}

std::string Engine::nixl_library() const {
  if (in_forked_child()) return {};
  const std::lock_guard lock(mutex_);
  return nixl_library_;
}

void Engine::start() {
  check_process();
  const std::lock_guard lock(mutex_);
  if (stopping_ || closed()) throw Error(ErrorCode::closed, "the connector is closed");
  start_locked();
}

bool Engine::notify_started(std::shared_ptr<CompletionQueue> queue, std::uint64_t token) {
  const std::lock_guard lock(mutex_);
  if (start_ == Start::started || start_ == Start::failed) return false;
  start_watchers_.emplace_back(std::move(queue), token);
  return true;
}

bool Engine::check_started() const {
  check_process();
  if (start_ == Start::started && !closed()) return true;
  const std::lock_guard lock(mutex_);
  if (stopping_) throw Error(ErrorCode::closed, "the connector is closed");
  if (start_failure_) throw Error(start_failure_->code, start_failure_->message);
  return start_ == Start::started;
}

void Engine::wait_started() {
  start();
  {
    std::unique_lock lock(mutex_);
    started_.wait(lock, [&] { return start_ == Start::started || start_ == Start::failed; });
  }
  check_started();
}

bool Engine::push(Command command, bool or_throw) {
  if (or_throw) {
    check_process();
  } else if (in_forked_child()) {
    return false;
  }
  const std::lock_guard lock(mutex_);
  if (stopping_ || (!or_throw && start_ == Start::idle)) {
    if (or_throw) throw Error(ErrorCode::closed, "the connector is closed");
    return false;
  }
  start_locked();
  mailbox_.push_back(std::move(command));
  if (pause_ >= Pause::standby) wake_.notify_one();
  return true;
}

Engine::Turn::Turn(Engine& engine) : engine_(engine), lock_(engine.turn_) {
  in_turn = true;
  enter_context();
}

void Engine::Turn::enter_context() {
  engine_.current_turn_ = this;
  context_.emplace(engine_.cuda_context_);
}

void Engine::add_stats(ConnectorStats& stats) {
  if (!in_turn && !in_forked_child()) {
    const auto until = Clock::now() + kStatsPatience;
    do {
      const Turn turn(*this, std::try_to_lock);
      if (turn) {
        if (loop_ != nullptr) loop_->count();
        break;
      }
      std::this_thread::yield();
    } while (Clock::now() < until);
  }
  counters_.add_to(stats);
  const clockid_t clock = cpu_clock_;
  stats.cpu_time += clock == kNoClock || in_forked_child() ? cpu_used_.load() : time_of(clock);
}

Engine::Turn::Turn(Engine& engine, std::try_to_lock_t) : engine_(engine) {
  // What the owner of some memory does when it is let go may lead back here.
  if (in_turn) return;
  lock_ = std::unique_lock(engine.turn_, std::defer_lock);
  for (int i = 0; i < kTurnTries && !in_turn; ++i) in_turn = lock_.try_lock();
  if (in_turn) enter_context();
}

Engine::Turn::~Turn() {
  if (!lock_.owns_lock()) return;
  std::vector<std::shared_ptr<ConnectionState>> landed;
  if (engine_.loop_ != nullptr) landed = engine_.loop_->take_landed();
  context_.reset();
  in_turn = false;
  lock_.unlock();
  for (const auto& operation : landed) release(operation);
}

bool Engine::attend_here(const std::shared_ptr<ConnectionState>& operation) {
  check_process();
  {
    const Turn turn(*this, std::try_to_lock);
    if (!turn || loop_ == nullptr || closed() || !loop_->attend_if_quick(operation)) return false;
    if (!loop_->pending()) return true;
  }
  nudge();
  return true;
}

void Engine::nudge() {
  nudged_ = true;
  if (pause_ == Pause::sleep || (pause_ == Pause::away && lookers_ == 0)) {
    const std::lock_guard lock(mutex_);
    wake_.notify_one();
  }
}

void Engine::attend(std::shared_ptr<ConnectionState> operation) {
  if (!attend_here(operation)) push(std::move(operation), true);
}

bool Engine::attend_if_open(std::shared_ptr<ConnectionState> operation) {
  return push(std::move(operation), false);
}

bool Engine::run(Task task) { return push(std::move(task), false); }

void Engine::take_commands(std::vector<Command>& commands) {
  const std::lock_guard lock(mutex_);
  commands.swap(mailbox_);
}

bool Engine::progress() {
  check_process();
  bool worked = false;
  {
    const Turn turn(*this, std::try_to_lock);
    if (!turn || loop_ == nullptr || closed()) return false;
    worked = loop_->turn();
    loop_->driven();
    if (!loop_->pending()) return worked;
  }
  // What this began is nothing that a thread which sleeps knows of.
  if (pause_ == Pause::sleep) nudge();
  return worked;
}

bool Engine::look_once() {
  {
    // What the thread has been asked to do goes first, and may take long.
    const std::lock_guard lock(mutex_);
    if (!mailbox_.empty()) return false;
  }
  const Turn turn(*this, std::try_to_lock);
  // Whoever has it looks around for everybody.
  if (!turn) return true;
  if (loop_ == nullptr || closed() || !loop_->looks_are_quick()) return false;
  loop_->look_around();
  return true;
}

void Engine::look_until(const std::function<bool()>& there, Clock::time_point until) {
  if (in_turn || there()) return;
  ++lookers_;
  do {
    // Whoever drives the engine does its commands too.
    if (!look_once() && !(is_driven() && progress())) break;
    // The peer's engine may want this very processor.
    std::this_thread::yield();
  } while (!there() && Clock::now() < until);
  --lookers_;
  {
    const Turn turn(*this, std::try_to_lock);
    if (turn && (loop_ == nullptr || !loop_->pending())) return;
  }
  nudge();
}

bool Engine::is_driven() {
  const Turn turn(*this, std::try_to_lock);
  return turn && loop_ != nullptr && loop_->is_driven();
}

void Engine::stop() noexcept {
  closed_.store(true, std::memory_order_release);
  if (in_forked_child()) return;
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  wake_.notify_one();
}

void Engine::close() noexcept {
  stop();
  if (in_forked_child()) return;
  const std::lock_guard one_at_a_time(close_mutex_);
  if (thread_ != nullptr && thread_->joinable() &&
      thread_->get_id() != std::this_thread::get_id()) {
    thread_->join();
    thread_.reset();
  }
}

void Engine::pause(Look look, bool& stop) {
  std::unique_lock lock(mutex_);
  const auto due = [&] {
    return (stopping_ && !stop) || (look.pause >= Pause::standby && !mailbox_.empty()) ||
           (nudged_ &&
            (look.pause == Pause::sleep || (look.pause == Pause::away && lookers_ == 0)));
  };
  // Before `nudged_` is looked at: who sets it looks at this next.
  pause_ = look.pause;
  if (look.pause != Pause::none && !due()) {
    counters_.wakeups.add(1);
    if (look.at == Clock::time_point::max()) {
      wake_.wait(lock, due);
    } else {
      wake_.wait_until(lock, look.at, due);
    }
  }
  pause_ = Pause::none;
  nudged_ = false;
  stop = stopping_;
}

void Engine::report_started(Start outcome, std::optional<Failure> failure) {
  decltype(start_watchers_) watchers;
  {
    const std::lock_guard lock(mutex_);
    start_ = outcome;
    start_failure_ = std::move(failure);
    watchers.swap(start_watchers_);
  }
  started_.notify_all();
  for (const auto& [queue, token] : watchers) queue->push(token);
}

void Engine::thread_main() noexcept {
  ::pthread_setname_np(::pthread_self(), "nixl_connect");
  clockid_t clock = kNoClock;
  ::pthread_getcpuclockid(::pthread_self(), &clock);
  cpu_clock_ = clock;
  run_loop();
  cpu_used_ = time_of(CLOCK_THREAD_CPUTIME_ID);
  cpu_clock_ = kNoClock;
}

void Engine::run_loop() noexcept {
  // The default slack of 50 us would be most of a short pause.
  ::prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);

  Failure failure{ErrorCode::backend, ""};
  try {
    const NixlApi& api = NixlApi::load(options_.nixl_library, options_.nixl_library_candidates);
    {
      const std::lock_guard lock(mutex_);
      nixl_library_ = api.path;
    }
    std::vector<std::shared_ptr<ConnectionState>> survivors;
    bool stopped = false;
    {
      // For the agent's end.
      std::optional<CudaContext> context;
      EngineLoop loop(*this, api);
      const auto publish = [&](EngineLoop* published) {
        const Turn turn(*this);
        loop_ = published;
      };
      publish(&loop);
      report_started(Start::started, std::nullopt);
      try {
        survivors = loop.run();
        publish(nullptr);
        stopped = true;
      } catch (const std::exception& error) {
        publish(nullptr);
        failure.message = std::string("the engine has failed: ") + error.what();
        survivors = loop.abandon(failure);
      }
      context.emplace(cuda_context_);
    }
    // The agent is gone, and with it whatever could still touch their memory.
    for (const auto& operation : survivors) {
      operation->detach();
      release(operation);
    }
    if (stopped) return;
  } catch (const Error& error) {
    failure = {error.code(), error.what()};
  } catch (const std::exception& error) {
    failure.message =
        "NIXL's agent could not be made with backend '" + options_.backend + "': " + error.what();
  }
  report_started(Start::failed, failure);

  // Whatever is asked of it, it fails.
  std::vector<Command> commands;
  bool stop = false;
  while (!stop) {
    pause({Clock::time_point::max()}, stop);
    take_commands(commands);
    for (Command& command : commands) {
      if (auto* operation = std::get_if<std::shared_ptr<ConnectionState>>(&command)) {
        (*operation)->finish(OperationStatus::errored, failure);
        release(*operation);
      }
    }
    commands.clear();
  }
}

// EngineLoop: what its thread does.

EngineLoop::EngineLoop(Engine& engine, const NixlApi& api)
    : engine_(engine),
      counters_(engine.counters_),
      agent_(api, engine.options().name + "-" + unique_suffix(), engine.options().backend,
             engine.options().backend_parameters, engine.options().progress_thread),
      registry_(agent_),
      peers_(agent_, engine.options().backend, engine.options().max_peer_regions,
             engine.options().max_peers),
      last_work_(Clock::now()),
      not_quick_pause_(kFirstNotQuickPause) {
  try {
    connections_ = Blob::parse(agent_.partial_metadata({}));
  } catch (const Error&) {
    // What it writes whole is good for its own kind.
  }
  encoder_ = std::make_shared<MetadataEncoder>(connections_ ? connections_->head() : "");
}

std::vector<std::shared_ptr<ConnectionState>> EngineLoop::abandon(const Failure& failure) {
  std::vector<Operation> open = ground();
  for (const Operation& operation : open) operation->finish(OperationStatus::errored, failure);
  open.insert(open.end(), landed_.begin(), landed_.end());
  landed_.clear();
  return open;
}

std::vector<std::shared_ptr<ConnectionState>> EngineLoop::ground() {
  std::vector<Operation> open = open_operations();
  for (const Operation& operation : open) {
    operation->transfer.reset();
    operation->peer.reset();
  }
  return open;
}

std::vector<std::shared_ptr<ConnectionState>> EngineLoop::run() {
  Engine::Look look{Clock::now(), Engine::Pause::none};
  Clock::time_point last_call = Clock::time_point::max();
  bool stop = false;
  while (true) {
    engine_.pause(look, stop);
    {
      const Engine::Turn ours(engine_);
      const bool stops_now = stop && !stopping_;
      if (stops_now) {
        stopping_ = true;
        last_call = Clock::now() + engine_.options().close_grace;
      }
      const bool worked = turn();
      // Once: nothing is accepted any more.
      if (stops_now) stop_operations();
      if (stopping_) {
        tell_all();
        attentive_until_ = std::max(attentive_until_, told_last_ + kNoticeTime);
      }
      const bool at_rest =
          flights_.empty() && split_.empty() && untold_.empty() && Clock::now() >= attentive_until_;
      if (stopping_ && (at_rest || Clock::now() >= last_call)) break;
      look = next_look(worked);
    }
    // Whoever waits for a processor, or for the turn, goes first.
    if (look.pause == Engine::Pause::none) std::this_thread::yield();
  }
  const Engine::Turn ours(engine_);
  return ground();
}

bool EngineLoop::turn() {
  engine_.take_commands(commands_);
  bool worked = !commands_.empty();
  for (Engine::Command& command : commands_) {
    if (auto* operation = std::get_if<Operation>(&command)) {
      attend(*operation);
    } else {
      std::get<Engine::Task>(command)(*this);
    }
  }
  commands_.clear();
  // Callers may have looked around since the thread began its rest.
  const bool looked = busy() && !is_driven() && Clock::now() < last_look_ + rest_between_looks();
  if (looked) {
    tell_if_due();
  } else {
    worked |= look_around();
  }
  worked |= expire_deadlines();
  return worked;
}

void EngineLoop::driven() noexcept { last_driven_ = last_look_; }

bool EngineLoop::is_driven() const noexcept { return Clock::now() - last_driven_ < kDrivenFor; }

bool EngineLoop::attend_if_quick(const Operation& operation) {
  const auto began = Clock::now();
  if (!operation->small || operation->phase != ConnectionState::Phase::fresh ||
      began < not_quick_until_ ||
      // To post is to look around, which can take as long as large data stream in.
      (!operation->passive && !(looks_are_quick() && peers_.knows(operation->remote)))) {
    return false;
  }
  attend(operation);
  last_work_ = Clock::now();
  engine_.patience_.store(patience(), std::memory_order_relaxed);
  if (last_work_ - began > kQuick) {
    not_quick_until_ = last_work_ + not_quick_pause_;
    not_quick_pause_ = std::min(2 * not_quick_pause_, kNotQuickPause);
  } else {
    not_quick_pause_ = kFirstNotQuickPause;
  }
  // Who drives the engine looks soon anyway.
  if (!looks_are_quick() || is_driven()) return true;
  if (busy()) {
    // Sooner than the thread, which then rests on.
    const auto due = std::max<Clock::duration>(rest_between_looks() / 2, kShortestPause);
    if (last_work_ - last_look_ > due) look_around(last_work_ + kQuick);
  } else if (flights_.size() == 1 && flights_.back() == operation) {
    see_through(last_work_ + kPatience);
  }
  return true;
}

void EngineLoop::see_through(Clock::time_point until) {
  if (to_skip_ > 0) {
    --to_skip_;
    return;
  }
  while (!poll_transfer(0)) {
    if (Clock::now() < until) {
      // The peer's engine may want this very processor.
      std::this_thread::yield();
      continue;
    }
    // Its peer is not so quick now; the next ones will not try.
    skips_ = std::min(2 * skips_ + 1, kMostSkips);
    to_skip_ = skips_;
    return;
  }
  skips_ = 0;
}

bool EngineLoop::look_around(Clock::time_point until) {
  bool worked = poll_fences(until);
  const auto began = Clock::now();
  worked |= poll_transfers(until);
  tell_if_due();
  worked |= poll_notifications(until);
  last_look_ = Clock::now();
  return worked || last_look_ - began > kLongLook;
}

void EngineLoop::attend(const Operation& operation) {
  try {
    take_further(operation);
  } catch (const std::exception& error) {
    // Out of memory, most likely; what else can go wrong is handled where it does.
    fail(operation, {ErrorCode::backend, operation->describe() + ": " + error.what()});
    land(operation);
  }
}

void EngineLoop::take_further(const Operation& operation) {
  using Phase = ConnectionState::Phase;
  switch (operation->phase) {
    case Phase::fresh:
      if (operation->time_limit && !operation->ended() && !operation->deadline) {
        const auto when = operation->began + *operation->time_limit;
        operation->deadline = deadlines_.emplace_hint(deadlines_.end(), when, operation);
      }
      if (!fences_passed(operation)) {
        fenced_.push_back(operation);
        operation->phase = Phase::fenced;
        if (!operation->small) ++large_;
      } else if (!operation->parts.empty()) {
        send_parts(operation);
      } else if (!operation->passive) {
        begin(operation);
      } else if (operation->ended()) {
        land(operation);
      } else {
        offer(operation);
      }
      break;
    case Phase::fenced:
      if (!fences_passed(operation)) break;
      std::erase(fenced_, operation);
      if (!operation->small) --large_;
      operation->phase = Phase::fresh;
      take_further(operation);
      break;
    case Phase::offered:
      if (operation->ended()) withdraw(operation);
      break;
    case Phase::split:
      if (operation->ended()) cancel_parts(*operation);
      break;
    case Phase::lingering:  // A peer may still use the memory,
    case Phase::flying:     // or NIXL does,
    case Phase::released:   // or nothing is left to do.
      break;
  }
}

bool EngineLoop::fences_passed(const Operation& operation) {
  auto& fences = operation->after;
  try {
    while (!operation->ended() && !fences.empty() && fences.back()()) fences.pop_back();
  } catch (const std::exception& error) {
    fail(operation, {ErrorCode::backend, operation->describe() + ": " + error.what()});
  } catch (...) {
    fail(operation, {ErrorCode::backend, operation->describe() + ": a fence has failed"});
  }
  if (operation->ended()) fences.clear();
  return fences.empty();
}

bool EngineLoop::poll_fences(Clock::time_point until) {
  bool worked = false;
  for (std::size_t i = 0; i < fenced_.size() && !(worked && Clock::now() >= until);) {
    const Operation operation = fenced_[i];
    // When it is taken further it leaves the list.
    attend(operation);
    if (operation->phase == ConnectionState::Phase::fenced) {
      ++i;
    } else {
      worked = true;
    }
  }
  return worked;
}

cuda::Context* EngineLoop::context_to_enter(const ConnectionState& operation) {
  return operation.on_device ? context_to_enter(operation.local_regions) : nullptr;
}

cuda::Context* EngineLoop::context_to_enter(const std::vector<Region>& regions) {
  const auto on_device =
      std::find_if(regions.begin(), regions.end(), [](const Region& r) { return r.type == kVram; });
  if (on_device == regions.end()) return nullptr;
  cuda::Context* const context = cuda_context_of(*on_device);
  if (engine_.cuda_context_ == nullptr) {
    engine_.cuda_context_ = context;
    engine_.current_turn_->enter_context();
  }
  return context == current_cuda_context() ? nullptr : context;
}

MemoryRegistry::Lease EngineLoop::hold(const std::vector<Region>& regions) {
  const CudaContext context(context_to_enter(regions));
  return registry_.acquire(regions);
}

void EngineLoop::offer(const Operation& operation) {
  const CudaContext context(context_to_enter(*operation));
  try {
    operation->lease = registry_.acquire(operation->local_regions);
    operation->make_ready(blob_of(registry_.covering(operation->local_regions)), encoder_);
  } catch (const AgentError& error) {
    fail(operation, {ErrorCode::backend,
                     operation->describe() + ": the memory could not be registered: " +
                         error.what() + cuda_registration_advice(operation->local_regions)});
    land(operation);
    return;
  }
  operation->phase = ConnectionState::Phase::offered;
  router_.add(operation);
  if (!operation->small) ++large_;
}

void EngineLoop::send_parts(const Operation& operation) {
  if (stopping_) {
    // The other engines are closed already.
    fail(operation, closed_failure(operation->describe()));
    operation->parts.clear();
    begin(operation);
    return;
  }
  operation->phase = ConnectionState::Phase::split;
  operation->parts_left = operation->parts.size();
  split_.insert(operation);
  std::vector<Operation> refused;
  for (const Operation& part : operation->parts) {
    if (operation->ended()) part->finish(OperationStatus::cancelled);
    part->whole = operation;
    try {
      part->engine->attend(part);
    } catch (const Error& error) {
      part->whole.reset();
      part->finish(OperationStatus::errored, Failure{error.code(), error.what()});
      landed_.push_back(part);
      refused.push_back(part);
    }
  }
  operation->make_in_progress();
  for (const Operation& part : refused) part_ended(operation, *part);
}

void EngineLoop::cancel_parts(const ConnectionState& operation) {
  for (const Operation& part : operation.parts) {
    if (part->finish(OperationStatus::cancelled)) part->engine->attend_if_open(part);
  }
}

void EngineLoop::part_ended(const Operation& whole, const ConnectionState& part) {
  if (auto failure = part.failure()) {
    whole->finish(OperationStatus::errored, std::move(failure));
    cancel_parts(*whole);
  }
  if (--whole->parts_left > 0) return;
  split_.erase(whole);
  whole->parts.clear();
  // What is left, or to tell the peer that nothing comes.
  whole->phase = ConnectionState::Phase::fresh;
  attend(whole);
}

void EngineLoop::hold_own(ConnectionState& operation) {
  if (!registry_.covers(operation.remote.regions)) {
    throw AgentError("the memory is not offered any more", capi::kNotFound);
  }
  const auto own = registry_.acquire(operation.remote.regions);
  operation.lease.insert(operation.lease.end(), own.begin(), own.end());
}

void EngineLoop::withdraw(const Operation& operation) {
  const auto linger = engine_.options().linger;
  const bool told = operation->told.load(std::memory_order_acquire);
  if (!told || (linger.count() <= 0 && !stopping_)) {
    land(operation);
    return;
  }
  operation->phase = ConnectionState::Phase::lingering;
  forget_deadline(*operation);
  // When the engine stops, the agent's end is the end of it.
  if (!stopping_) operation->deadline = deadlines_.emplace(Clock::now() + linger, operation);
}

std::string EngineLoop::blob_of(const std::vector<Region>& regions) {
  if (connections_ == nullptr) return agent_.full_metadata();
  std::vector<std::string> partial;
  for_each_type(regions, [&](const std::vector<Region>& of_one_type) {
    partial.push_back(agent_.partial_metadata(of_one_type));
  });
  try {
    return Blob::join(*connections_, partial);
  } catch (const Error&) {
    return agent_.full_metadata();
  }
}

void EngineLoop::begin(const Operation& operation) {
  const CudaContext context(context_to_enter(*operation));
  ErrorCode code = ErrorCode::peer_unreachable;
  const char* what = "NIXL refused the peer's metadata: ";
  try {
    operation->peer = peers_.admit(operation->remote);
    if (operation->ended()) {
      // Cancelled before it began: nothing is left but to tell the peer.
      abort(operation);
      return;
    }
    code = ErrorCode::backend;
    what = "the memory could not be registered: ";
    operation->lease = registry_.acquire(operation->local_regions);
    what = "NIXL refused the transfer: ";
    if (operation->peer->is_self) hold_own(*operation);
    operation->told_by_engine = PeerTable::can_be_told(*operation->peer) && !operation->key.empty();
    operation->transfer.emplace(agent_.create_transfer(
        operation->kind, operation->local_regions, operation->remote.regions,
        operation->peer->alias, operation->told_by_engine ? std::string() : operation->key));
  } catch (const AgentError& error) {
    const bool of_memory = code == ErrorCode::backend;
    fail(operation,
         {code, operation->describe() + ": " + what + error.what() +
                    (of_memory ? cuda_registration_advice(operation->local_regions) : "")});
    abort(operation);
    return;
  }
  operation->phase = ConnectionState::Phase::flying;
  if (!operation->small) ++large_;
  try {
    if (operation->transfer->post()) {
      complete(operation);
      return;
    }
  } catch (const AgentError& error) {
    break_off(operation, error);
    return;
  }
  operation->make_in_progress();
  flights_.push_back(operation);
}

bool EngineLoop::poll_transfer(std::size_t index) {
  std::optional<AgentError> error;
  try {
    if (!flights_[index]->transfer->done()) return false;
  } catch (const AgentError& caught) {
    error = caught;
  }
  const Operation operation = std::move(flights_[index]);
  flights_.erase(flights_.begin() + static_cast<std::ptrdiff_t>(index));
  if (error) {
    break_off(operation, *error);
  } else {
    complete(operation);
  }
  return true;
}

bool EngineLoop::poll_transfers(Clock::time_point until) {
  // Transfers to one peer mostly end in their order, and asking after one costs a look at all of
  // UCX's interfaces. So the oldest are asked after until some have not ended, and of the others a
  // few at each look, in turn.
  bool worked = false;
  std::size_t index = 0;
  const auto goes_on = [&](std::size_t at, std::size_t waiting) {
    return at < flights_.size() && waiting < kAskedAfter && Clock::now() < until;
  };
  for (std::size_t waiting = 0; goes_on(index, waiting);) {
    if (poll_transfer(index)) {
      worked = true;
    } else {
      ++index, ++waiting;
    }
  }
  flight_cursor_ = std::max(flight_cursor_, index);
  // Those that were passed over come again in time, however many are added behind them.
  if (flight_cursor_ >= flights_.size() || ++looks_since_start_ > kLooksUntilStart) {
    flight_cursor_ = index;
    looks_since_start_ = 0;
  }
  for (std::size_t waiting = 0; goes_on(flight_cursor_, waiting);) {
    if (poll_transfer(flight_cursor_)) {
      worked = true;
    } else {
      ++flight_cursor_, ++waiting;
    }
  }
  return worked;
}

std::chrono::microseconds EngineLoop::patience() const noexcept {
  const auto rest = rest_between_looks();
  if (!busy() || rest < kShortestPause) return {};
  return std::chrono::duration_cast<std::chrono::microseconds>(rest);
}

bool EngineLoop::poll_notifications(Clock::time_point until) {
  try {
    agent_.take_notifications(messages_);
  } catch (const AgentError&) {
    // Another look will tell; the operations have their deadlines.
  }
  if (messages_.empty()) return false;
  std::size_t taken = 0;
  for (const auto& [sender, message] : messages_) {
    if (taken++ > 0 && Clock::now() >= until) {
      --taken;
      break;
    }
    for (const auto& match : router_.take(message)) {
      if (match.failed) {
        fail(match.operation, {ErrorCode::remote_failed,
                               match.operation->describe() + ": the peer '" + printable(sender) +
                                   "' reports '" + printable(match.reason) + "'"});
        land(match.operation);
      } else {
        complete(match.operation);
      }
    }
  }
  messages_.erase(messages_.begin(), messages_.begin() + static_cast<std::ptrdiff_t>(taken));
  return true;
}

bool EngineLoop::expire_deadlines() {
  if (deadlines_.empty()) return false;
  const auto now = Clock::now();
  bool worked = false;
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const Operation operation = deadlines_.begin()->second;
    deadlines_.erase(deadlines_.begin());
    operation->deadline.reset();
    worked = true;
    if (operation->phase == ConnectionState::Phase::lingering) {
      land(operation);
      continue;
    }
    const bool flies = operation->phase == ConnectionState::Phase::flying;
    const std::string advice = flies ? cuda_memory_advice(operation->local_regions) : "";
    const char* was = operation->phase == ConnectionState::Phase::fenced
                          ? "the work that it waits for is not done"
                      : operation->passive ? "no peer has completed it"
                                           : "the transfer has not ended";
    fail(operation, {ErrorCode::timed_out, operation->describe() + ": the deadline of " +
                                               seconds(*operation->time_limit) + " passed, and " +
                                               was + advice});
    attend(operation);
  }
  return worked;
}

bool EngineLoop::busy() const noexcept {
  return router_.size() + flights_.size() >= kManyOperations || last_work_ < patient_until_;
}

Clock::duration EngineLoop::rest_between_looks() const noexcept {
  const auto age = std::chrono::duration_cast<Clock::duration>(typical_age_);
  if (last_work_ < patient_until_) return peers_patience_;
  return busy() ? std::min<Clock::duration>(age / kBusyRestFraction, kLongestBusyRest)
                : std::min<Clock::duration>(age / kRestFraction, kLongestRest);
}

Engine::Look EngineLoop::next_look(bool worked) {
  const auto now = Clock::now();
  if (worked) last_work_ = now;
  engine_.patience_.store(patience(), std::memory_order_relaxed);
  const auto idle = now - last_work_;
  const ConnectorOptions& options = engine_.options();
  if (is_driven()) return {now + kDrivenPause, Engine::Pause::rest};
  if (engine_.lookers_ > 0) return {now + kDrivenPause, Engine::Pause::away};
  Clock::time_point look = now + kIdlePause;
  if (pending()) {
    if (idle < options.spin) {
      const auto rest = rest_between_looks();
      if (rest < kShortestPause) return {now, Engine::Pause::none};
      if (busy()) return {last_look_ + rest, Engine::Pause::standby};
      return {now + rest, Engine::Pause::rest};
    }
    const auto pause =
        std::min<Clock::duration>(idle / (large_ > 0 ? kLargePauseFraction : kPauseFraction),
                                  std::max<Clock::duration>(idle / kLongPauseFraction, kLongPause));
    const auto rest = busy() ? rest_between_looks() : Clock::duration::zero();
    look = now + std::min<Clock::duration>(std::max<Clock::duration>({pause, rest, kShortestPause}),
                                           options.max_pause);
  }
  if (!deadlines_.empty()) look = std::min(look, deadlines_.begin()->first);
  if (!untold_.empty()) look = std::min(look, untold_due_);
  return {look};
}

void EngineLoop::tell_success(const ConnectionState& operation) {
  const auto patience = patience_of(operation.key);
  const auto due = Clock::now() + patience;
  const bool patient = patience.count() > 0;
  if (patient) {
    peers_patience_ = patience;
    patient_until_ = due + kPatienceLasts;
  }
  untold_due_ = untold_.empty() ? due : std::min(untold_due_, due);
  auto it = std::find_if(untold_.begin(), untold_.end(), [&](const Untold& known) {
    return patient && known.open && known.peer == operation.peer;
  });
  if (it == untold_.end()) it = untold_.insert(it, {operation.peer, {}, patient, 0});
  it->keys.push_back(operation.key);
  if (!patient || it->keys.size() >= kMostUntold) tell_all();
}

void EngineLoop::tell_if_due() {
  if (!untold_.empty() && Clock::now() >= untold_due_) tell_all();
}

void EngineLoop::tell_all() {
  if (untold_.empty()) return;
  const auto told_or_lost = [&](Untold& untold) {
    const Peer& peer = *untold.peer;
    try {
      // The endpoint may be what is wrong: the transfers' own goes to the same agent.
      agent_.notify(untold.refusals == 0 ? peer.for_notices->alias : peer.alias,
                    NotificationRouter::success_notice(untold.keys));
      counters_.notifications_sent.add(1);
      return true;
    } catch (const AgentError&) {
      counters_.notifications_refused.add(1);
      // The next operation has the peer loaded afresh.
      peers_.failed(peer);
      // The peer's own deadlines end its sides.
      return ++untold.refusals == kMostRefusals;
    }
  };
  std::erase_if(untold_, told_or_lost);
  untold_due_ = Clock::now() + kRefusalPause;
  told_last_ = Clock::now();
}

void EngineLoop::complete(const Operation& operation) {
  // One that has waited for long says nothing of those that follow.
  const auto age = std::min<Clock::duration>(Clock::now() - operation->began, kLongestAge);
  typical_age_ += (age - typical_age_) / kAgeMemory;
  if (operation->peer != nullptr) peers_.succeeded(*operation->peer);
  if (operation->told_by_engine) tell_success(*operation);
  // Memory that nobody keeps alive for us may be freed by whoever learns of the end.
  const bool unowned = std::any_of(operation->local.begin(), operation->local.end(),
                                   [](const Descriptor& d) { return d.owner == nullptr; });
  if (unowned) {
    operation->transfer.reset();
    registry_.release(operation->lease);
    operation->lease.clear();
  }
  operation->finish(OperationStatus::complete);
  land(operation);
}

void EngineLoop::fail(const Operation& operation, Failure failure) {
  failure.message += " (after " + seconds(Clock::now() - operation->began) + ")";
  operation->finish(OperationStatus::errored, std::move(failure));
}

void EngineLoop::break_off(const Operation& operation, const AgentError& error) {
  fail(operation, transfer_failure(*operation, error));
  if (!operation->peer->broken) tell_failure(*operation);
  operation->peer->broken = true;
  peers_.failed(*operation->peer);
  land(operation);
}

Failure EngineLoop::transfer_failure(const ConnectionState& operation,
                                     const AgentError& error) const {
  const bool reached = operation.peer->reached;
  return {reached ? ErrorCode::peer_disconnected : ErrorCode::peer_unreachable,
          operation.describe() + ": the peer " +
              (reached ? "has disconnected: " : "could not be reached: ") + error.what() +
              cuda_memory_advice(operation.local_regions)};
}

void EngineLoop::tell_failure(const ConnectionState& operation) {
  // The whole tells of its parts.
  if (operation.peer == nullptr || operation.key.empty()) return;
  const auto failure = operation.failure();
  const char* reason = to_string(failure ? failure->code : ErrorCode::cancelled);
  try {
    const Peer& peer = *operation.peer;
    agent_.notify(PeerTable::can_be_told(peer) ? peer.for_notices->alias : peer.alias,
                  NotificationRouter::failure_notice(operation.key, reason));
    counters_.notifications_sent.add(1);
    const auto needed = operation.peer->reached ? kNoticeTime : kFirstNoticeTime;
    attentive_until_ = std::max(attentive_until_, Clock::now() + needed);
  } catch (const AgentError&) {
    counters_.notifications_refused.add(1);
    // The peer's own deadline ends its side.
  }
}

void EngineLoop::abort(const Operation& operation) {
  tell_failure(*operation);
  land(operation);
}

void EngineLoop::land(const Operation& operation) {
  using Phase = ConnectionState::Phase;
  const bool offered = operation->phase == Phase::offered || operation->phase == Phase::lingering;
  if (offered) router_.remove(*operation);
  const bool fenced = operation->phase == Phase::fenced;
  if (fenced) std::erase(fenced_, operation);
  if (!operation->small && (offered || fenced || operation->phase == Phase::flying)) --large_;
  operation->transfer.reset();
  forget_deadline(*operation);
  if (operation->whole == nullptr) {
    OperationCounters& counters = counters_.of(operation->kind, operation->passive);
    switch (operation->status()) {
      case OperationStatus::complete:
        counters.count_complete(operation->bytes, Clock::now() - operation->began);
        break;
      case OperationStatus::cancelled: counters.cancelled.add(1); break;
      default: counters.errored.add(1); break;
    }
  }
  // Given back with that of others, at the end of the turn.
  leases_.insert(leases_.end(), operation->lease.begin(), operation->lease.end());
  operation->detach();
  landed_.push_back(operation);
  if (operation->whole != nullptr && operation->whole->engine.get() == &engine_) {
    const Operation whole = std::exchange(operation->whole, nullptr);
    part_ended(whole, *operation);
  }
}

std::vector<std::shared_ptr<ConnectionState>> EngineLoop::take_landed() noexcept {
  registry_.release(leases_);
  leases_.clear();
  return std::exchange(landed_, {});
}

void EngineLoop::forget_deadline(ConnectionState& operation) {
  if (!operation.deadline) return;
  deadlines_.erase(*operation.deadline);
  operation.deadline.reset();
}

std::vector<std::shared_ptr<ConnectionState>> EngineLoop::open_operations() const {
  std::vector<Operation> open;
  router_.for_each([&](const Operation& operation) { open.push_back(operation); });
  open.insert(open.end(), fenced_.begin(), fenced_.end());
  open.insert(open.end(), split_.begin(), split_.end());
  open.insert(open.end(), flights_.begin(), flights_.end());
  for (const Engine::Command& command : commands_) {
    if (const auto* operation = std::get_if<Operation>(&command)) open.push_back(*operation);
  }
  return open;
}

void EngineLoop::stop_operations() {
  for (const Operation& operation : open_operations()) {
    fail(operation, closed_failure(operation->describe()));
    attend(operation);
  }
}

void EngineLoop::count() noexcept {
  counters_.fenced.set(fenced_.size());
  counters_.waiting.set(router_.size());
  counters_.in_flight.set(flights_.size());
  counters_.registered_regions.set(registry_.size());
  counters_.peers.set(peers_.size());
  counters_.notifications_matched.set(router_.matched());
  counters_.notifications_unknown.set(router_.unknown());
}

NIXL_CONNECT_NAMESPACE_END
