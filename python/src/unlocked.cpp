#include <cxxabi.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "module.h"

namespace nixl_connect::python {

Unlocked::Unlocked() : state_(PyEval_SaveThread()) {}

Unlocked::~Unlocked() { lock(); }

bool Unlocked::signalled() {
  lock();
  const bool raised = PyErr_CheckSignals() != 0;
  PyEval_SaveThread();
  return raised;
}

void Unlocked::lock() noexcept {
  try {
    PyEval_RestoreThread(state_);
  } catch (abi::__forced_unwind&) {
    // The interpreter has ended, and Python before 3.14 ends such a thread with pthread_exit. That
    // unwinds its stack, through functions that may not throw (std::terminate), and through locks
    // of the core that others still use. So it stays here, as 3.14 has it stay.
    while (true) ::pause();
  }
}

void let_others_run() {
  // Long enough for one that waits for the GIL to wake up.
  constexpr std::chrono::microseconds kPause{20};
  const Unlocked unlocked;
  std::this_thread::sleep_for(kPause);
}

}  // namespace nixl_connect::python
