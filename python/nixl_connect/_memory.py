"""What is known of memory before it becomes a descriptor, and what holds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._loaded import loaded_numpy, loaded_torch
from .device import Device, DeviceKind

__all__ = ["EXPECTED", "HOST", "Memory", "hold"]

EXPECTED = (
    "expected a torch.Tensor, an (array, device) pair, bytes or bytearray, a (ptr, size, "
    "device, owner) tuple, or an object with DLPack, the buffer protocol, __array_interface__ "
    "or __cuda_array_interface__"
)

HOST = Device((DeviceKind.HOST, 0))
"""The one that every descriptor of host memory has."""


class Memory:
    """What is known of an object's memory before it becomes a descriptor."""

    __slots__ = ("address", "address_now", "device", "owner", "size", "source", "writable")

    def __init__(
        self,
        address: int,
        size: int,
        device: Device,
        owner: object,
        writable: bool | None,
        source: object = None,
        address_now: Callable[[], int] | None = None,
    ) -> None:
        self.address = address
        self.size = size
        self.device = device
        self.owner = owner
        self.writable = writable
        """None where only the system knows."""
        self.source = source
        """What knows the stream that the memory is used on."""
        self.address_now = address_now
        """Asks again, of memory that its owner can move and nobody can hold."""


def hold(owner: object) -> object:
    """What keeps an owner's memory where it is, as far as anything does: a buffer that is exported
    can be neither resized nor closed, and a storage outlives the tensor that had it."""
    torch, numpy = loaded_torch(), loaded_numpy()
    if torch is not None and isinstance(owner, torch.Tensor):
        try:
            return owner, owner.untyped_storage()
        except (NotImplementedError, RuntimeError):
            return owner
    if numpy is not None and isinstance(owner, numpy.ndarray):
        base = hold_base(numpy, owner)
        return owner if base is None else (owner, base)
    try:
        # A SharedMemory has its buffer there.
        buffer: Any = getattr(owner, "buf", owner)
        return owner, memoryview(buffer)
    except (TypeError, ValueError, BufferError):
        return owner


def hold_base(numpy: Any, array: Any) -> object:
    """What keeps the memory that an array is a view of; None for an array that has its own.

    NumPy keeps the object, but not its buffer: a `SharedMemory` could be closed.
    """
    base = array.base
    while isinstance(base, numpy.ndarray):
        base = base.base
    return None if base is None else hold(base)
