"""Numbers that callers give, checked."""

from __future__ import annotations

from ._default import Default

__all__ = ["check_count", "check_timeout", "core_timeout"]


def check_count(value: int, argument: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument}: expected int, got {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{argument}: expected {least} to {most}, got {value}")
    return value


def check_timeout(timeout: float, argument: str = "timeout") -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"{argument}: expected seconds or None, got {type(timeout).__name__}")
    if not timeout >= 0:
        raise ValueError(f"{argument}: expected 0 seconds or more, got {timeout}")
    return float(timeout)


def core_timeout(timeout: float | Default | None) -> float | None:
    """The core's way: None for the default, negative for no deadline."""
    if isinstance(timeout, Default):
        return None
    return -1.0 if timeout is None else check_timeout(timeout)
