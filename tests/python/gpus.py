"""The GPUs that tests use: those that torch finds, or else the stand-ins for some.

The stand-ins are there when the process was started with the stand-in for the CUDA driver on its
library path and with ``FAKE_CUDA_LIVE=1``; `make test-stand-in` does so. NIXL and UCX are the real
ones, with UCX's modules for CUDA, on either.

An array is torch's tensor; where torch has no driver to find GPUs by, a `StandInArray` and on the host
one of numpy: to import torch takes a process longer than most tests. All can be sliced.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from nixl_connect.commands._cuda import Driver

STAND_IN = os.environ.get("FAKE_CUDA_LIVE") == "1"
torch: Any = None
if not STAND_IN:
    with contextlib.suppress(OSError):
        ctypes.CDLL("libcuda.so.1")
        torch = importlib.import_module("torch")
PLAIN, POOLED, MAPPED = range(3)
_LEGACY_STREAM = 1
_GRANULE = 2 << 20


class _StandIn(Driver):
    """The stand-in, with what it has beside the driver's functions."""

    def __init__(self) -> None:
        super().__init__()
        pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
        wide = ctypes.c_ulonglong
        arguments: dict[str, list[Any]] = {
            "cuMemAllocAsync": [pointer, size, pointer],
            "cuMemCreate": [pointer, size, pointer, wide],
            "cuMemAddressReserve": [pointer, size, size, pointer, wide],
            "cuMemMap": [pointer, size, size, pointer, wide],
            "cuMemSetAccess": [pointer, size, pointer, size],
            "cuStreamCreate": [pointer, ctypes.c_uint],
            "cuStreamQuery": [pointer],
            "fake_cuda_launch_fill": [pointer, number, pointer, number, size],
            "fake_cuda_launch_sleep": [pointer, number, ctypes.c_double],
            "fake_cuda_capture": [pointer, number],
            "fake_cuda_replay": [pointer],
        }
        for name, of in arguments.items():
            getattr(self.library, name).argtypes = of

    def fake(self, name: str, *arguments: Any) -> Any:
        return getattr(self.library, f"fake_cuda_{name}")(*arguments)

    def allocate(self, size: int, device: int, kind: int) -> int:
        """As `cudaMalloc` does, `cudaMallocAsync`, and torch's expandable segments."""
        address = ctypes.c_ulonglong()
        made = ctypes.byref(address)
        if kind == PLAIN:
            self.call("cuMemAlloc_v2", made, size)
        elif kind == POOLED:
            self.call("cuMemAllocAsync", made, size, _current)
        else:
            size = -(-size // _GRANULE) * _GRANULE
            # CUmemAllocationProp: pinned, shared as files, on this device.
            properties = (ctypes.c_int * 8)(1, 1, 1, device)
            access = (ctypes.c_int * 3)(1, device, 3)
            pages = ctypes.c_void_p()
            self.call("cuMemCreate", ctypes.byref(pages), size, properties, 0)
            self.call("cuMemAddressReserve", made, size, 0, None, 0)
            self.call("cuMemMap", address.value, size, 0, pages, 0)
            self.call("cuMemSetAccess", address.value, size, access, 1)
        return address.value

    def idle(self) -> bool:
        return all(self.library.cuStreamQuery(each) == 0 for each in (_LEGACY_STREAM, _current))


_driver = _StandIn() if STAND_IN else None
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
            _driver.call("cuMemcpyHtoD_v2", self._address, source.ctypes.data, source.nbytes)

    def __del__(self) -> None:
        if self._freed and _driver is not None:
            with _driver.on(self.device):
                _driver.call("cuMemFree_v2", self._address)

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

    def address(self) -> int:
        return self._address

    def copy(self) -> np.ndarray[Any, Any]:
        assert _driver is not None
        copied = np.empty(self.shape, self.dtype)
        with _driver.on(self.device):
            _driver.call("cuMemcpyDtoH_v2", copied.ctypes.data, self._address, copied.nbytes)
        return copied


class StandInGraph:
    def __init__(self, stream: int) -> None:
        self._stream = stream

    def replay(self) -> None:
        assert _driver is not None
        _driver.fake("replay", self._stream)


def count() -> int:
    """How many there are."""
    if _driver is not None:
        return _driver.count
    return int(torch.cuda.device_count()) if torch is not None else 0


def library() -> Path:
    """Where the stand-in for the driver is."""
    maps = Path("/proc/self/maps").read_text().split()
    return next(Path(each) for each in maps if Path(each).name.startswith("libcuda.so"))


def calls(name: str) -> int:
    """How often the stand-in had this function called."""
    assert _driver is not None
    called: int = _driver.fake("calls", name.encode())
    return called


def put(array: np.ndarray[Any, Any], device: str, kind: int = PLAIN) -> Any:
    """The array on a device, ``"cpu"`` or ``"cuda:1"``. Torch's kind is its allocator's."""
    if torch is not None:
        return torch.from_numpy(array).to(device)
    return array if device == "cpu" else StandInArray(array, int(device.partition(":")[2]), kind)


def get(array: Any) -> np.ndarray[Any, Any]:
    """What an array holds."""
    if isinstance(array, np.ndarray):
        return array
    copied: np.ndarray[Any, Any] = (
        array.copy() if isinstance(array, StandInArray) else array.cpu().numpy()
    )
    return copied


def address(array: Any) -> int:
    if isinstance(array, np.ndarray):
        return array.ctypes.data
    where: int = array.address() if isinstance(array, StandInArray) else array.data_ptr()
    return where


def allocators(kind: int) -> dict[str, str]:
    """The environment in which torch allocates memory of this kind."""
    names = {POOLED: "backend:cudaMallocAsync", MAPPED: "expandable_segments:True"}
    return {} if STAND_IN else {"PYTORCH_CUDA_ALLOC_CONF": names[kind]}


def free_memory() -> int:
    """Bytes that are left on the first device; a stand-in has none to spare."""
    return 1 << 30 if torch is None else torch.cuda.mem_get_info(0)[0]


# Streams of the first device.


def stream() -> Any:
    if _driver is None:
        return torch.cuda.Stream()
    made = ctypes.c_void_p()
    with _driver.on(0):
        _driver.call("cuStreamCreate", ctypes.byref(made), 1)
    return made.value


def default_stream() -> Any:
    return torch.cuda.default_stream() if _driver is None else _LEGACY_STREAM


def handle(of: Any) -> int:
    return of if _driver is not None else of.cuda_stream


def foreign(its_handle: int) -> Any:
    """Another library's stream."""
    return its_handle if _driver is not None else torch.cuda.ExternalStream(its_handle)


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
        _driver.fake("launch_fill", _current, array.device, array.address(), value, size)


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
            _driver.call("cuCtxSynchronize")


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
            try:
                yield graph
            finally:
                graph.capture_end()
        else:
            _driver.fake("capture", side, 1)
            try:
                yield StandInGraph(side)
            finally:
                _driver.fake("capture", side, 0)
