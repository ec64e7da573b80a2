"""What ``nixl-connect bench`` measures: sizes, numbers in flight, memory, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import nixl_connect as nc

__all__ = [
    "LONGEST_LINE",
    "MOST_BYTES",
    "TIMEOUT",
    "Figures",
    "PeerError",
    "Result",
    "Work",
    "allocate",
    "parse_counts",
    "parse_sizes",
    "size_text",
]

LONGEST_LINE = 1 << 26
MOST_BYTES = 16 << 30
TIMEOUT = 60.0
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


Figures: TypeAlias = dict[str, Any]
"""What `Result.figures` gives, as it is in JSON."""


class PeerError(RuntimeError):
    """The serving side is not there, cannot do what is asked, or has gone."""


@dataclass(frozen=True)
class Work:
    """What is measured."""

    size: int
    """Bytes of each read."""
    in_flight: int
    seconds: float
    kind: str
    """``"cpu"`` or ``"cuda:N"``."""

    @property
    def title(self) -> str:
        return f"{size_text(self.size)}, {self.in_flight} in flight"


@dataclass
class Result:
    """What came of it."""

    work: Work
    elapsed: float
    """Seconds of all reads together."""
    times: list[float] = field(repr=False)
    """Seconds of each read, in ascending order."""

    @property
    def p50(self) -> float:
        return self.times[len(self.times) // 2]

    @property
    def p99(self) -> float:
        return self.times[int(len(self.times) * 0.99)]

    @property
    def rate(self) -> float:
        """Reads per second."""
        return len(self.times) / self.elapsed

    def figures(self) -> Figures:
        return {
            "size": self.work.size,
            "in_flight": self.work.in_flight,
            "kind": self.work.kind,
            "reads": len(self.times),
            "p50_us": round(self.p50 * 1e6, 1),
            "p99_us": round(self.p99 * 1e6, 1),
            "reads_per_second": round(self.rate, 1),
            "gigabytes_per_second": round(self.rate * self.work.size / 1e9, 3),
        }


def parse_sizes(text: str) -> list[int]:
    """``"4K,1M"`` in bytes. Raises `ValueError` that says what was expected."""
    sizes = []
    for part in text.split(","):
        number = part.strip().upper().removesuffix("B").removesuffix("I")
        unit = number[-1:] if number[-1:] in _UNITS else ""
        digits = number.removesuffix(unit)
        if not digits.isdecimal() or not 0 < int(digits) * _UNITS[unit] <= MOST_BYTES:
            raise ValueError(f"sizes: expected 1 to 16G, such as 4K or 64M, got {part!r}")
        sizes.append(int(digits) * _UNITS[unit])
    return sizes


def parse_counts(text: str) -> list[int]:
    """``"1,16"``. Raises `ValueError` that says what was expected."""
    counts = []
    for part in text.split(","):
        if not part.strip().isdecimal() or not 1 <= int(part) <= 4096:
            raise ValueError(f"in-flight: expected numbers from 1 to 4096, got {part!r}")
        counts.append(int(part))
    return counts


def size_text(size: int) -> str:
    for unit in ("G", "M", "K"):
        if size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]} {unit}iB"
    return f"{size} B"


def allocate(kind: str, size: int) -> Any:
    device = nc.Device(kind)
    if device.kind is nc.DeviceKind.HOST:
        return bytearray(size)
    try:
        import torch
    except ImportError:
        raise PeerError(f"kind: {kind!r} needs torch, which is not installed") from None
    if not torch.cuda.is_available():
        raise PeerError(f"kind: torch finds no CUDA device for {kind!r}")
    try:
        return torch.zeros(size, dtype=torch.uint8, device=str(device))
    except RuntimeError as error:
        raise PeerError(f"kind: no {size_text(size)} of {kind!r}: {error}") from error
