"""The GPUs that tests use: those that torch finds, or else the stand-ins for some.

The stand-ins are there when the process was started with the stand-in for the CUDA driver on its
library path and with ``FAKE_CUDA_LIVE=1``; `make test-python` does so. NIXL and UCX are the real
ones, with UCX's modules for CUDA, on either.

An array is torch's tensor or a `StandInArray`. Both have ``data_ptr()``, ``cpu()`` and slices.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

REAL = torch.cuda.device_count() > 0
STAND_IN = not REAL and os.environ.get("FAKE_CUDA_LIVE") == "1"
KINDS = PLAIN, POOLED, MAPPED = range(3)
_LEGACY_STREAM = 1
_GRANULE = 2 << 20


class _Driver:
    """The stand-in's functions; those of the driver raise where they return an error."""

    def __init__(self) -> None:
        self._library = library = ctypes.CDLL("libcuda.so.1")
        pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
        arguments: dict[str, list[Any]] = {
            "cuCtxPushCurrent_v2": [pointer],
            "cuCtxPopCurrent_v2": [pointer],
            "cuDevicePrimaryCtxRetain": [pointer, number],
            "cuMemAlloc_v2": [pointer, size],
            "cuMemAllocAsync": [pointer, size, pointer],
            "cuMemCreate": [pointer, size, pointer, ctypes.c_ulonglong],
            "cuMemAddressReserve": [pointer, size, size, pointer, ctypes.c_ulonglong],
            "cuMemMap": [pointer, size, size, pointer, ctypes.c_ulonglong],
            "cuMemSetAccess": [pointer, size, pointer, size],
            "cuMemFree_v2": [pointer],
            "cuMemcpyHtoD_v2": [pointer, pointer, size],
            "cuMemcpyDtoH_v2": [pointer, pointer, size],
            "cuStreamCreate": [pointer, ctypes.c_uint],
            "cuStreamQuery": [pointer],
            "fake_cuda_launch_fill": [pointer, number, pointer, number, size],
            "fake_cuda_launch_sleep": [pointer, number, ctypes.c_double],
            "fake_cuda_capture": [pointer, number],
            "fake_cuda_replay": [pointer],
        }
        for name, of in arguments.items():
            getattr(library, name).argtypes = of
        self._contexts: dict[int, ctypes.c_void_p] = {}

    def count(self) -> int:
        number = ctypes.c_int()
        self("cuDeviceGetCount", ctypes.byref(number))
        return number.value

    def __call__(self, name: str, *arguments: Any) -> None:
        error = getattr(self._library, name)(*arguments)
        assert error == 0, f"{name}: error {error}"

    def fake(self, name: str, *arguments: Any) -> Any:
        return getattr(self._library, f"fake_cuda_{name}")(*arguments)

    @contextlib.contextmanager
    def on(self, device: int) -> Iterator[None]:
        """With the device's context, as torch's functions are."""
        if device not in self._contexts:
            context = ctypes.c_void_p()
            self("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
            self._contexts[device] = context
        self("cuCtxPushCurrent_v2", self._contexts[device])
        try:
            yield
        finally:
            self("cuCtxPopCurrent_v2", None)

    def allocate(self, size: int, device: int, kind: int) -> int:
        """As `cudaMalloc` does, `cudaMallocAsync`, and torch's expandable segments."""
        address = ctypes.c_ulonglong()
        made = ctypes.byref(address)
        if kind == PLAIN:
            self("cuMemAlloc_v2", made, size)
        elif kind == POOLED:
            self("cuMemAllocAsync", made, size, _current)
        else:
            size = -(-size // _GRANULE) * _GRANULE
            # CUmemAllocationProp: pinned, shared as files, on this device.
            properties = (ctypes.c_int * 8)(1, 1, 1, device)
            access = (ctypes.c_int * 3)(1, device, 3)
            pages = ctypes.c_void_p()
            self("cuMemCreate", ctypes.byref(pages), size, properties, 0)
            self("cuMemAddressReserve", made, size, 0, None, 0)
            self("cuMemMap", address.value, size, 0, pages, 0)
            self("cuMemSetAccess", address.value, size, access, 1)
        return address.value

    def idle(self) -> bool:
        return all(
            self._library.cuStreamQuery(handle) == 0 for handle in (_LEGACY_STREAM, _current)
        )


_driver = _Driver() if STAND_IN else None
_current = _LEGACY_STREAM


class StandInArray:
    """Bytes on a stand-in's device, as CuPy and Numba have them."""

    def __init__(self, source: np.ndarray[Any, Any], device: int, kind: int = PLAIN) -> None:
        assert _driver is not None
        self.shape, self.dtype, self.device = (source.size,), source.dtype, device
        self._owner: StandInArray | None = None  # of a view, so that it stays
        self._freed = kind == PLAIN
        with _driver.on(device):
            self._address = _driver.allocate(source.nbytes, device, kind)
            source = np.ascontiguousarray(source)
            _driver("cuMemcpyHtoD_v2", self._address, source.ctypes.data, source.nbytes)

    def __del__(self) -> None:
        if self._freed and _driver is not None:
            with _driver.on(self.device):
                _driver("cuMemFree_v2", self._address)

    def __getitem__(self, part: slice) -> StandInArray:
        start, stop, step = part.indices(self.shape[0])
        assert step == 1
        view = object.__new__(StandInArray)
        view.shape, view.dtype, view.device = (stop - start,), self.dtype, self.device
        view._owner, view._freed = self, False
        view._address = self._address + start * self.dtype.itemsize
        return view

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self._address, False),
            "version": 3,
            "stream": _current,
        }

    def data_ptr(self) -> int:
        return self._address

    def cpu(self) -> torch.Tensor:
        assert _driver is not None
        copied = np.empty(self.shape, self.dtype)
        with _driver.on(self.device):
            _driver("cuMemcpyDtoH_v2", copied.ctypes.data, self._address, copied.nbytes)
        return torch.from_numpy(copied)


class StandInGraph:
    def __init__(self, stream: int) -> None:
        self._stream = stream

    def replay(self) -> None:
        assert _driver is not None
        _driver.fake("replay", self._stream)


def count() -> int:
    """How many there are."""
    return _driver.count() if _driver is not None else torch.cuda.device_count()


def put(array: np.ndarray[Any, Any], device: str, kind: int = PLAIN) -> Any:
    """The array on a device, ``"cpu"`` or ``"cuda:1"``. Torch's kind is its allocator's."""
    if _driver is None or device == "cpu":
        return torch.from_numpy(array).to(device)
    return StandInArray(array, int(device.partition(":")[2]), kind)


def allocators(kind: int) -> dict[str, str]:
    """The environment in which torch allocates memory of this kind."""
    names = {POOLED: "backend:cudaMallocAsync", MAPPED: "expandable_segments:True"}
    return {"PYTORCH_CUDA_ALLOC_CONF": names[kind]} if REAL else {}


def free_memory() -> int:
    """Bytes that are left on the first device."""
    return 4 << 30 if _driver is not None else torch.cuda.mem_get_info(0)[0]


# Streams of the first device.


def stream() -> Any:
    if _driver is None:
        return torch.cuda.Stream()
    made = ctypes.c_void_p()
    with _driver.on(0):
        _driver("cuStreamCreate", ctypes.byref(made), 1)
    return made.value


def default_stream() -> Any:
    return torch.cuda.default_stream() if _driver is None else _LEGACY_STREAM


def handle(of: Any) -> int:
    return of if _driver is not None else of.cuda_stream


@contextlib.contextmanager
def use(as_current: Any) -> Iterator[None]:
    """With this stream as the current one."""
    global _current
    if _driver is None:
        with torch.cuda.stream(as_current):
            yield
        return
    before, _current = _current, as_current
    try:
        yield
    finally:
        _current = before


def fill(array: Any, value: int) -> None:
    """Gives the current stream a kernel that fills the array."""
    if _driver is None:
        array.fill_(value)
    else:
        size = array.shape[0] * array.dtype.itemsize
        _driver.fake("launch_fill", _current, array.device, array.data_ptr(), value, size)


def sleep() -> None:
    """Gives the current stream a kernel that takes a second or more."""
    if _driver is None:
        torch.cuda._sleep(2_000_000_000)  # cycles
    else:
        _driver.fake("launch_sleep", _current, 0, 1.0)


def synchronize() -> None:
    """Waits until the first device has done everything."""
    if _driver is None:
        torch.cuda.synchronize()
    else:
        with _driver.on(0):
            _driver("cuCtxSynchronize")


def idle() -> bool:
    """Whether the current stream has done everything."""
    if _driver is None:
        return torch.cuda.current_stream().query()
    with _driver.on(0):
        return _driver.idle()


@contextlib.contextmanager
def captured(side: Any) -> Iterator[Any]:
    """Captures the stream, which becomes the current one, into a graph that has ``replay()``."""
    with use(side):
        if _driver is None:
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin()
            yield graph
            graph.capture_end()
        else:
            _driver.fake("capture", side, 1)
            yield StandInGraph(side)
            _driver.fake("capture", side, 0)
