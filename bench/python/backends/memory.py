"""The buffers that are moved: NumPy's on the host, torch's on a device."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

Buffer = Any
"""A ``numpy.ndarray`` or a ``torch.Tensor``, of bytes."""


def address(buffer: Buffer) -> int:
    return buffer.ctypes.data if isinstance(buffer, np.ndarray) else buffer.data_ptr()


def nixl_place(buffer: Buffer) -> tuple[int, str]:
    """The device's number and NIXL's name for its kind of memory."""
    if isinstance(buffer, np.ndarray) or buffer.device.type == "cpu":
        return 0, "DRAM"
    return buffer.device.index, "VRAM"


def described(buffer: Buffer) -> Any:
    """What a Descriptor is made of."""
    return (buffer, "cpu") if isinstance(buffer, np.ndarray) else buffer


def on_device(size: int, value: int, device: str) -> Buffer:
    import torch

    return torch.full((size,), value, dtype=torch.uint8, device=device)


def settle() -> None:
    """Until the devices have done what they were given."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        for number in range(torch.cuda.device_count()):
            torch.cuda.synchronize(number)
