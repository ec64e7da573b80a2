"""Where memory lives."""

from __future__ import annotations

from enum import IntEnum

from . import _core

__all__ = ["Device", "DeviceKind"]


class DeviceKind(IntEnum):
    """The kind of memory that a descriptor points to."""

    UNSPECIFIED = 0
    HOST = 1
    """System (CPU) memory."""
    CUDA = 2
    """Memory of a device that CUDA addresses."""
    XPU = 3
    """Memory of an Intel XPU (Level Zero)."""

    def __str__(self) -> str:
        return _KIND_NAMES[self]

    @property
    def nixl_mem_type(self) -> str:
        """NIXL's name for memory of this kind: ``"DRAM"`` or ``"VRAM"``."""
        return "DRAM" if self is DeviceKind.HOST else "VRAM"


_KIND_NAMES = {
    DeviceKind.UNSPECIFIED: "<invalid>",
    DeviceKind.HOST: "cpu",
    DeviceKind.CUDA: "cuda",
    DeviceKind.XPU: "xpu",
}


class Device:
    """A device: its kind and, for accelerators, its number.

    Parameters
    ----------
    metadata
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"xpu:0"``, or a pair of a `DeviceKind` and a
        number. ``"host"`` and ``"gpu"`` are understood too.

    Raises
    ------
    ValueError
        When the text names no device, or `metadata` is None.
    TypeError
        When it is neither text nor such a pair.
    """

    __slots__ = ("_id", "_kind")

    def __init__(self, metadata: str | tuple[DeviceKind, int]) -> None:
        if isinstance(metadata, str):
            kind, self._id = _core.parse_device(metadata)
            self._kind = DeviceKind(kind)
        elif (
            isinstance(metadata, tuple)
            and len(metadata) == 2
            and isinstance(metadata[0], DeviceKind)
            and isinstance(metadata[1], int)
        ):
            self._kind, self._id = metadata
            if self._id < 0:
                raise ValueError(f"metadata: expected a device number of 0 or more, got {self._id}")
        elif metadata is None:
            raise ValueError("metadata: expected a device, got None")
        else:
            raise TypeError(
                "metadata: expected str or (DeviceKind, int), got " + type(metadata).__name__
            )

    @property
    def id(self) -> int:
        """The device's number; 0 for the host."""
        return self._id

    @property
    def kind(self) -> DeviceKind:
        """The kind of memory."""
        return self._kind

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Device):
            return NotImplemented
        return self._kind == other._kind and self._id == other._id

    def __hash__(self) -> int:
        return hash((self._kind, self._id))

    def __repr__(self) -> str:
        return f"Device({str(self)!r})"

    def __str__(self) -> str:
        if self._kind in (DeviceKind.CUDA, DeviceKind.XPU):
            return f"{self._kind}:{self._id}"
        return str(self._kind)
