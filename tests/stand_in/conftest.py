"""GPUs without one: the stand-ins for the CUDA driver and for NIXL.

Run apart from the other tests, because a process has one CUDA driver: `make test-stand-in` does so.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before anything starts UCX, which would take every network interface.
os.environ["UCX_NET_DEVICES"] = "lo"

import nixl_connect as nc

_FAKES = Path(os.environ.get("NIXL_CONNECT_TEST_FAKES", "build/dev/tests")).resolve()
FAKE_NIXL = _FAKES / "fake_nixl" / "libfake_nixl.so"
FAKE_CUDA = _FAKES / "fake_cuda" / "libcuda.so.1"
# Before anybody looks for the real one.
os.environ["NIXL_CONNECT_CUDA_LIBRARY"] = str(FAKE_CUDA)

PLAIN, POOLED, MAPPED, MANAGED, PINNED = range(5)


class GpuArray:
    """An array as CuPy and Numba have them."""

    def __init__(self, gpu: Gpu, size: int, device: int, kind: int, stream: int | None) -> None:
        self.ptr: int = gpu.library.fake_cuda_malloc(size, device, kind)
        self.size = size
        self.device = device
        self.stream = stream

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": (self.size,),
            "typestr": "|u1",
            "data": (self.ptr, False),
            "version": 3,
            "stream": self.stream,
        }

    def bytes(self) -> bytes:
        return ctypes.string_at(self.ptr, self.size)

    def set(self, value: int) -> None:
        ctypes.memset(self.ptr, value, self.size)


class Gpu:
    """The stand-in's GPUs, which do nothing before they are told to."""

    def __init__(self) -> None:
        library = self.library = ctypes.CDLL(str(FAKE_CUDA))
        pointer, number = ctypes.c_void_p, ctypes.c_int
        library.fake_cuda_malloc.restype = pointer
        library.fake_cuda_malloc.argtypes = [ctypes.c_size_t, number, number]
        library.fake_cuda_stream_create.restype = pointer
        library.fake_cuda_launch_fill.argtypes = [
            pointer,
            number,
            pointer,
            number,
            ctypes.c_size_t,
        ]
        library.fake_cuda_run.argtypes = [pointer, number]
        library.fake_cuda_capture.argtypes = [pointer, number]

    def array(
        self, size: int = 1000, device: int = 0, kind: int = PLAIN, stream: int | None = None
    ) -> GpuArray:
        return GpuArray(self, size, device, kind, stream)

    def stream(self, device: int = 0) -> int:
        handle: int = self.library.fake_cuda_stream_create(device)
        return handle

    def fill(self, array: GpuArray, value: int, stream: int = 1) -> None:
        """Give a stream a kernel that fills the array."""
        self.library.fake_cuda_launch_fill(stream, array.device, array.ptr, value, array.size)

    def run(self, stream: int = 1, device: int = 0) -> None:
        self.library.fake_cuda_run(stream, device)

    def fail(self, function: str, error: int, times: int = 1) -> None:
        self.library.fake_cuda_fail(function.encode(), error, times)

    @property
    def events(self) -> int:
        count: int = self.library.fake_cuda_events()
        return count


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    made = Gpu()
    yield made
    assert made.events == 0
    assert made.library.fake_cuda_broken_captures() == 0
    made.library.fake_cuda_reset()


@pytest.fixture
async def left(gpu: Gpu) -> AsyncIterator[nc.Connector]:
    async with nc.Connector("left", nixl_library=str(FAKE_NIXL), default_timeout=30) as made:
        yield made


@pytest.fixture
async def right(gpu: Gpu) -> AsyncIterator[nc.Connector]:
    async with nc.Connector("right", nixl_library=str(FAKE_NIXL), default_timeout=30) as made:
        yield made
