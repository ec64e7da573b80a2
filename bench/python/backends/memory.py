"""The buffers that are moved: NumPy's on the host, the CUDA driver's on a device."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from nixl_connect._library import load_cuda_runtime, nixl_library_candidates
from nixl_connect.commands._cuda import Buffer as GpuBuffer
from nixl_connect.commands._cuda import Driver

Buffer = Any
"""A ``numpy.ndarray`` of bytes, or a `GpuBuffer`."""


@functools.cache
def driver() -> Driver:
    # Without it NIXL's own API takes no memory of a GPU.
    load_cuda_runtime(nixl_library_candidates())
    return Driver()


def on_device(size: int, value: int, device: str) -> Buffer:
    """Bytes on ``"cpu"`` or ``"cuda:1"``, each with this value."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return np.full(size, value, np.uint8)
    index = int(number or 0)
    enter(index)
    buffer = GpuBuffer(driver(), size, index)
    fill(buffer, value)
    return buffer


@functools.cache
def enter(device: int) -> None:
    """Leaves the thread with a context, as CUDA's runtime does.

    Without one NIXL's own API would not see transfers end.
    """
    driver().call("cuCtxPushCurrent_v2", driver().context(device))


def fill(buffer: Buffer, value: int) -> None:
    if isinstance(buffer, np.ndarray):
        buffer[:] = value
    else:
        buffer.set(bytes([value]) * buffer.nbytes)


def holds(buffer: Buffer, value: int) -> bool:
    """Whether each of its bytes has this value."""
    if isinstance(buffer, np.ndarray):
        return bool((buffer == value).all())
    return bool(buffer.get() == bytes([value]) * buffer.nbytes)


def address(buffer: Buffer) -> int:
    return buffer.ctypes.data if isinstance(buffer, np.ndarray) else buffer.address


def nixl_place(buffer: Buffer) -> tuple[int, str]:
    """The device's number and NIXL's name for its kind of memory."""
    return (0, "DRAM") if isinstance(buffer, np.ndarray) else (buffer.device, "VRAM")


def described(buffer: Buffer) -> Any:
    """What a Descriptor is made of."""
    if isinstance(buffer, np.ndarray):
        return (buffer, "cpu")
    return (buffer.address, buffer.nbytes, f"cuda:{buffer.device}", buffer)
