"""Where memory lives."""

from __future__ import annotations

from enum import IntEnum
from typing import SupportsIndex

from . import _core
from ._arguments import check_count, check_unicode

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


# What NIXL has for it.
_MOST = (1 << 32) - 1


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

    def __init__(self, metadata: str | tuple[DeviceKind, SupportsIndex]) -> None:
        if isinstance(metadata, str):
            kind, self._id = _core.parse_device(check_unicode(metadata, "metadata"))
            self._kind = DeviceKind(kind)
        elif (
            isinstance(metadata, tuple)
            and len(metadata) == 2
            and isinstance(metadata[0], DeviceKind)
            and hasattr(metadata[1], "__index__")
        ):
            self._kind = metadata[0]
            self._id = check_count(metadata[1], "metadata[1], a device's number", 0, _MOST)
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
