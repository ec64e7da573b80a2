#pragma once

#include <cstddef>

/// A stand-in for the CUDA driver, `libcuda.so.1`, on a machine that has no GPU.
///
/// It has the driver's functions that the core and UCX's modules for CUDA use, under the driver's
/// own names and with its numbers, and is as strict as the driver where that matters: an event can
/// be made, asked for and destroyed only with a context, and recorded only in a stream of its own;
/// memory is allocated only with a context; a default stream is the current context's; the legacy
/// one waits for all of its context; while a stream is captured, a thread that has not relaxed its
/// mode breaks the capture with a query; another process's memory is opened by its handle, and
/// one's own cannot be.
///
/// It has two ways:
/// - By default GPUs do nothing before they are told to, and the host can look into their memory:
///   for tests that say what happens when.
/// - With `FAKE_CUDA_LIVE=1` in the environment GPUs do by themselves what they are given, and the
///   host cannot touch their memory: whoever takes it for the host's dies. `FAKE_CUDA_DEVICES` says
///   how many there are, 4 if nothing is said.
///
/// What is declared here is what tests may ask of it beside that. All of it is C, so that Python's
/// tests can call it too. Thread safety: every function may be called from any thread.
extern "C" {

/// Forgets memory, streams and faults.
void fake_cuda_reset();

enum FakeCudaKind {
  kFakePlain = 0,    ///< `cudaMalloc`
  kFakePooled = 1,   ///< `cudaMallocAsync`
  kFakeMapped = 2,   ///< `cuMemMap`, as expandable segments
  kFakeManaged = 3,  ///< `cudaMallocManaged`
  kFakePinned = 4,   ///< `cudaMallocHost`
  kFakeUntold = 5,   ///< `cudaMalloc`, of a driver that denies that it is fit for CUDA IPC
};
/// Null if there is no such device.
void* fake_cuda_malloc(std::size_t size, int device, int kind);
void fake_cuda_free(void* memory);

/// A stream of the device, but for its default ones: for those, handles from 0 to 2, `device`
/// says whose.
void* fake_cuda_stream_create(int device);
/// Gives the stream a kernel that sets bytes.
void fake_cuda_launch_fill(void* stream, int device, void* memory, int value, std::size_t size);
/// Gives the stream a kernel that takes its time.
void fake_cuda_launch_sleep(void* stream, int device, double seconds);
/// Has the stream do all that it has been given.
void fake_cuda_run(void* stream, int device);
/// Begins or ends capturing the stream into a graph.
void fake_cuda_capture(void* stream, int capturing);
/// Gives the stream what was captured of it.
void fake_cuda_replay(void* stream);

/// The call of this name (`"cuEventQuery"`) returns `error`, `times` times.
void fake_cuda_fail(const char* name, int error, int times);

/// Events that are not destroyed.
int fake_cuda_events();
/// Captures that somebody's call has broken.
int fake_cuda_broken_captures();
/// How often the call of this name was made.
int fake_cuda_calls(const char* name);
/// The device whose context the calling thread has; -1 when it has none.
int fake_cuda_current_device();
}
