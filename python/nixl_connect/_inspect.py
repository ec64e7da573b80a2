"""What an object's memory is: address, size, device, owner, and whether it may be written.

One rule for all: what is described are the object's values, in the order of its indices. Where its
memory does not hold them so, a copy is described, which can be sent but not received into.
"""

from __future__ import annotations

import operator
from typing import Any

from ._arrays import memory_of_array, memory_of_object
from ._loaded import loaded_numpy, loaded_torch
from ._memory import EXPECTED, HOST, Memory, hold
from ._tensors import memory_of_tensor
from .device import Device, DeviceKind

__all__ = ["as_device", "is_number", "memory_of"]

_END_OF_MEMORY = 1 << 64


def _memory_of_one(data: object) -> Memory:
    torch = loaded_torch()
    if torch is not None and isinstance(data, torch.Tensor):
        return memory_of_tensor(torch, data)
    numpy = loaded_numpy()
    if numpy is not None and isinstance(data, numpy.ndarray):
        return memory_of_array(numpy, data)
    return memory_of_object(data)


def is_number(value: object) -> bool:
    """Whether it stands for an integer, as those of NumPy do."""
    try:
        operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def _number(value: object, what: str) -> int:
    if is_number(value):
        return operator.index(value)  # type: ignore[arg-type]
    raise TypeError(f"data: expected an int as the {what}, got {type(value).__name__}")


def _memory_of_tuple(data: tuple[Any, ...]) -> Memory:
    if not 2 <= len(data) <= 4:
        raise TypeError(f"data: {EXPECTED}; got a tuple of {len(data)}")
    if len(data) == 2 and (isinstance(data[1], (str, Device)) or not is_number(data[0])):
        device = as_device(data[1])
        memory = _memory_of_one(data[0])
        memory.device = device
        memory.source = data[0]
        return memory
    address, size = _number(data[0], "address"), _number(data[1], "size")
    device = as_device(data[2]) if len(data) >= 3 else HOST
    owner = hold(data[3]) if len(data) == 4 else None
    # Whether it may be written is known of the host's memory only, and asked when it is to be.
    writable = None if device.kind is DeviceKind.HOST else True
    return Memory(address, size, device, owner, writable)


def as_device(value: object) -> Device:
    if isinstance(value, str):
        value = Device(value)
    if isinstance(value, Device):
        return HOST if value.kind is DeviceKind.HOST else value
    raise TypeError(f"data: expected a Device or str as the device, got {type(value).__name__}")


def memory_of(data: object) -> Memory:
    """The memory that a `Descriptor` of this is of.

    Raises `TypeError` or `ValueError`, which begin with "data: ".
    """
    if data is None:
        raise ValueError(f"data: {EXPECTED}; got None")
    memory = _memory_of_tuple(data) if isinstance(data, tuple) else _memory_of_one(data)
    if memory.size == 0:
        raise ValueError(
            "data: expected at least one byte, got 0 bytes: what is empty needs no transfer"
        )
    if memory.address <= 0 or memory.size < 0:
        raise ValueError(
            "data: expected at least one byte at an address that is not null, got "
            f"{memory.size} bytes at {memory.address:#x}"
        )
    if memory.address + memory.size > _END_OF_MEMORY:
        raise ValueError(
            f"data: expected memory below {_END_OF_MEMORY:#x}, got {memory.size} bytes at "
            f"{memory.address:#x}"
        )
    return memory
