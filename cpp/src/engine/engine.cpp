#include "engine/engine.h"

#include <pthread.h>
#include <sys/prctl.h>

#include <csignal>
#include <system_error>
#include <utility>

#include "agent/advice.h"
#include "engine/engine_loop.h"
#include "engine/interrupt.h"
#include "engine/keeper.h"
#include "nixl_connect/error.h"
#include "system/c_locale.h"
#include "system/loaded_libraries.h"
#include "system/process.h"

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

/// How long whoever asks for figures waits for the agent lock.
constexpr auto kStatsWait = std::chrono::milliseconds(1);
/// One waiter that polls does so for all. A second one goes on when the first one stops.
constexpr int kMostPollingWaiters = 2;

thread_local bool on_engine_thread = false;

std::chrono::nanoseconds time_of(clockid_t clock) {
  timespec time{};
  // A thread's clock is gone when the thread is.
  if (::clock_gettime(clock, &time) != 0) return {};
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
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

}  // namespace

Engine::Engine(ConnectorOptions options, std::shared_ptr<const std::string> connector)
    : state_(std::move(options)), fork_guard_(std::move(connector)), startup_(fork_guard_) {}

Engine::~Engine() {
  // The thread has ended, or is this one, at its end.
  if (thread_.joinable()) thread_.detach();
}

void Engine::start() {
  fork_guard_.check();
  const auto reserve_heap = [this] {
    if (loaded_libraries("libucs").empty()) heap_reserve_ = std::make_unique<HeapReserve>();
  };
  startup_.begin(
      [&] {
        reserve_heap();
        launch();
      },
      [&] {
        reserve_heap();
        state_.mailbox.push(Task([](EngineLoop&) {}));
      });
}

void Engine::wait_started(const Interrupt& interrupt) {
  start();
  startup_.wait(interrupt);
}

void Engine::launch() {
  stay_loaded();
  try {
    const SignalsBlocked for_the_new_thread;
    thread_ = std::thread([self = shared_from_this()] { self->thread_main(); });
  } catch (const std::system_error& error) {
    throw Error(ErrorCode::backend,
                std::string("the engine's thread could not be started: ") + error.what());
  }
}

void Engine::submit(OperationPtr operation) {
  fork_guard_.check();
  if (submit_here(operation)) return;
  start();
  if (!state_.mailbox.push(std::move(operation))) {
    throw Error(ErrorCode::closed, "the connector is closed");
  }
}

bool Engine::submit_if_open(OperationPtr operation) {
  if (fork_guard_.is_child() || !startup_.begun()) return false;
  return submit_here(operation) || state_.mailbox.push(std::move(operation));
}

void Engine::part_ended(OperationPtr whole, std::optional<Failure> failure) {
  if (fork_guard_.is_child()) return;
  state_.mailbox.push(PartEnded{std::move(whole), std::move(failure)});
}

bool Engine::run(Task task) {
  return !fork_guard_.is_child() && startup_.begun() && state_.mailbox.push(std::move(task));
}

void Engine::deregister(const std::shared_ptr<ManualRegistration>& region,
                        MemoryRegistry::Lease lease) {
  if (fork_guard_.is_child()) return;
  if (!state_.mailbox.push(Deregistration{region, std::move(lease)})) region->release();
}

bool Engine::submit_here(const OperationPtr& operation) {
  Clock::time_point needed;
  {
    const AgentLock::Guard guard(state_.agent_lock, std::try_to_lock);
    if (!guard || loop_ == nullptr || startup_.closed()) return false;
    // What has been submitted before goes first.
    if (!state_.mailbox.empty() && !loop_->execute_if_quick()) return false;
    if (!loop_->submit_if_quick(operation)) return false;
    needed = loop_->poll_needed(Clock::now());
  }
  wake(needed);
  return true;
}

void Engine::wake(Clock::time_point needed) noexcept {
  // A waiter that polls does so for everybody, and wakes the thread when it stops.
  if (state_.polling_waiters.load() == 0) state_.mailbox.wake(needed);
}

bool Engine::progress() {
  fork_guard_.check();
  bool worked = false;
  {
    const AgentLock::Guard guard(state_.agent_lock, std::try_to_lock);
    if (!guard || loop_ == nullptr || startup_.closed()) return false;
    worked = loop_->round();
    loop_->driven_externally();
    if (!loop_->pending(Clock::now())) return worked;
  }
  // What this has begun is nothing that a thread which sleeps knows of.
  wake();
  return worked;
}

bool Engine::poll_once() {
  // What the thread has been asked to do goes first, and may take long.
  if (!state_.mailbox.empty()) return false;
  const AgentLock::Guard guard(state_.agent_lock, std::try_to_lock);
  // Whoever has the lock polls for everybody.
  if (!guard) return true;
  if (loop_ == nullptr || startup_.closed() || !loop_->polls_are_quick()) return false;
  loop_->poll();
  return true;
}

void Engine::poll_until(const Progress& progress, Milestone milestone, Clock::time_point until) {
  if (AgentLock::held_here() || progress.reached(milestone)) return;
  std::atomic<int>& waiters = state_.polling_waiters;
  int known = waiters.load();
  do {
    if (known >= kMostPollingWaiters) return;
  } while (!waiters.compare_exchange_weak(known, known + 1));
  do {
    // Whoever drives the engine does its commands too.
    if (!poll_once() && !(is_driven_externally() && this->progress())) break;
    // The peer's engine may want this very processor.
    std::this_thread::yield();
  } while (!progress.reached(milestone) && Clock::now() < until);
  --waiters;
  {
    const AgentLock::Guard guard(state_.agent_lock, std::try_to_lock);
    if (guard && (loop_ == nullptr || !loop_->pending(Clock::now()))) return;
  }
  wake();
}

bool Engine::is_driven_externally() {
  const AgentLock::Guard guard(state_.agent_lock, std::try_to_lock);
  return guard && loop_ != nullptr && loop_->is_driven_externally();
}

void Engine::add_stats(ConnectorStats& stats) {
  if (!AgentLock::held_here() && !fork_guard_.is_child()) {
    const auto until = Clock::now() + kStatsWait;
    do {
      const AgentLock::Guard guard(state_.agent_lock, std::try_to_lock);
      if (guard) {
        if (loop_ != nullptr) {
          loop_->count();
          loop_->count_ages(Clock::now());
        }
        break;
      }
      std::this_thread::yield();
    } while (Clock::now() < until);
  }
  state_.counters.add_to(stats);
  stats.wakeups += state_.mailbox.waits();
  const clockid_t clock = cpu_clock_;
  stats.cpu_time += clock == kNoClock || fork_guard_.is_child() ? cpu_used_.load() : time_of(clock);
}

void Engine::stop() noexcept {
  startup_.close();
  if (!fork_guard_.is_child()) state_.mailbox.close();
}

bool Engine::is_engine_thread() noexcept { return on_engine_thread; }

void Engine::close(const Interrupt& interrupt) noexcept {
  stop();
  // Two engines' threads that closed one another's would wait for ever.
  if (fork_guard_.is_child() || is_engine_thread()) return;
  std::unique_lock lock(join_mutex_);
  if (!thread_.joinable()) return;
  while (!at_end_.wait_for(lock, kInterruptCheck, [&] { return is_at_end_; })) {
    lock.unlock();
    if (interrupt && interrupt()) return;
    lock.lock();
  }
  if (thread_.joinable()) thread_.join();
}

void Engine::thread_main() noexcept {
  ::pthread_setname_np(::pthread_self(), "nixl_connect");
  // The default slack of 50 us would be most of a short pause.
  ::prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
  clockid_t clock = kNoClock;
  ::pthread_getcpuclockid(::pthread_self(), &clock);
  cpu_clock_ = clock;
  on_engine_thread = true;
  const CLocale for_ucx;
  while (true) {
    std::optional<Failure> failure;
    try {
      failure = run_loop();
    } catch (const std::exception& error) {
      failure = Failure{ErrorCode::backend, std::string("the engine has failed: ") + error.what()};
    }
    if (!failure) break;
    heap_reserve_.reset();
    startup_.report_failed(*failure);
    if (refuse_all(*failure)) break;
  }
  // What came too late for anybody to take.
  for (Command& command : state_.mailbox.end()) {
    refuse(command, {ErrorCode::closed, "the connector was closed"});
  }
  cpu_used_ = time_of(CLOCK_THREAD_CPUTIME_ID);
  cpu_clock_ = kNoClock;
  const std::lock_guard lock(join_mutex_);
  is_at_end_ = true;
  at_end_.notify_all();
}

std::optional<Failure> Engine::run_loop() {
  std::optional<Failure> failure;
  std::optional<EngineLoop> loop;
  const auto& parameters = state_.options.backend_parameters;
  const auto devices = parameters.find("device_list");
  const std::string device_list = devices == parameters.end() ? std::string() : devices->second;
  const bool uses_ucx = state_.options.backend == "UCX";
  try {
    const bool ucx_was_here = !loaded_libraries("libucs").empty();
    const NixlApi& api =
        NixlApi::load(state_.options.nixl_library, state_.options.nixl_library_candidates);
    startup_.found_library(api.path);
    if (const auto why = uses_ucx ? endless_start(device_list) : ""; !why.empty()) {
      throw std::runtime_error(why);
    }
    loop.emplace(state_, api, shared_from_this());
    if (ucx_was_here && uses_ucx) fork_guard_.check_ucx_thread();
  } catch (const Error& error) {
    return Failure{error.code(), error.what()};
  } catch (const std::exception& error) {
    const std::string advice = uses_ucx ? start_advice(device_list) : "";
    return Failure{ErrorCode::backend, "NIXL's agent could not be made with backend '" +
                                           state_.options.backend + "': " + error.what() + advice};
  }
  const auto publish = [&](EngineLoop* published) {
    const AgentLock::Guard guard(state_.agent_lock);
    loop_ = published;
  };
  publish(&*loop);
  startup_.report_started();
  heap_reserve_.reset();
  std::vector<std::shared_ptr<Releasable>> survivors;
  try {
    survivors = loop->run();
    publish(nullptr);
  } catch (const std::exception& error) {
    publish(nullptr);
    failure = Failure{ErrorCode::backend, std::string("the engine has failed: ") + error.what()};
    survivors = loop->abandon(*failure);
  }
  // With a context of CUDA's for the agent's end. With the agent goes whatever could still touch
  // the survivors' memory.
  const AgentLock::Guard guard(state_.agent_lock);
  loop.reset();
  // All but what other processes read and write by themselves.
  std::vector<std::shared_ptr<Releasable>> in_use;
  std::erase_if(survivors, [&](const std::shared_ptr<Releasable>& survivor) {
    if (!survivor->in_use()) return false;
    in_use.push_back(survivor);
    return true;
  });
  keep_while_in_use(std::move(in_use));
  state_.agent_lock.release_later(survivors);
  return failure;
}

bool Engine::refuse_all(const Failure& failure) {
  std::vector<Command> commands;
  while (true) {
    const bool closed = startup_.closed();
    state_.mailbox.take(commands);
    // What came with the wish to start again is for the next start.
    if (!closed && startup_.starting()) {
      state_.mailbox.put_back(std::move(commands));
      return false;
    }
    for (Command& command : commands) refuse(command, failure);
    commands.clear();
    if (closed) return true;
    state_.mailbox.wait({Clock::time_point::max(), Wait::Mode::sleep});
  }
}

void Engine::refuse(Command& command, const Failure& failure) noexcept {
  if (auto* operation = std::get_if<Submission>(&command)) {
    (*operation)->progress.finish(OperationStatus::errored, failure);
    (*operation)->release();
  } else if (auto* deregistration = std::get_if<Deregistration>(&command)) {
    deregistration->region->release();
  }
}

NIXL_CONNECT_NAMESPACE_END
