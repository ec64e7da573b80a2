#pragma once

#include <cstddef>

/// A stand-in for `libcuda.so.1` whose GPUs have their memory in this process and do nothing before
/// they are told to.
///
/// It has the driver's functions that the core uses, and is as strict as the driver where that
/// matters: an event can be made, asked for and destroyed only with a context, and recorded only in
/// a stream of its own; a default stream is the current context's; the legacy one waits for all of
/// its context; while a stream is captured, a thread that has not relaxed its mode breaks the
/// capture with a query.
///
/// All of it is C, so that Python's tests can call it too. Thread safety: every function may be
/// called from any thread.
extern "C" {

/// Forgets memory, streams and faults.
void fake_cuda_reset();

enum FakeCudaKind {
  kFakePlain = 0,    ///< `cudaMalloc`
  kFakePooled = 1,   ///< `cudaMallocAsync`
  kFakeMapped = 2,   ///< `cuMemMap`, as expandable segments
  kFakeManaged = 3,  ///< `cudaMallocManaged`
  kFakePinned = 4,   ///< `cudaMallocHost`
};
void* fake_cuda_malloc(std::size_t size, int device, int kind);
void fake_cuda_free(void* memory);

/// A stream of the device, but for its default ones: for those, handles from 0 to 2, `device`
/// says whose.
void* fake_cuda_stream_create(int device);
/// Gives the stream a kernel that sets bytes.
void fake_cuda_launch_fill(void* stream, int device, void* memory, int value, std::size_t size);
/// Has the stream do all that it has been given.
void fake_cuda_run(void* stream, int device);
/// Begins or ends capturing the stream into a graph.
void fake_cuda_capture(void* stream, int capturing);

/// The call of this name (`"cuEventQuery"`) returns `error`, `times` times.
void fake_cuda_fail(const char* function, int error, int times);

/// Events that are not destroyed.
int fake_cuda_events();
/// Captures that somebody's call has broken.
int fake_cuda_broken_captures();
/// How often the call of this name was made.
int fake_cuda_calls(const char* function);
/// The device whose context the calling thread has; -1 when it has none.
int fake_cuda_current_device();
}
