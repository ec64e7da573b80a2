"""Numbers and texts that callers give, checked."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from typing import SupportsFloat, SupportsIndex

from ._default import Default

__all__ = [
    "check_count",
    "check_flag",
    "check_parameters",
    "check_path",
    "check_text",
    "check_timeout",
    "check_unicode",
    "core_timeout",
]


def check_count(value: SupportsIndex, argument: str, least: int, most: int) -> int:
    if type(value) is not int:
        try:
            if isinstance(value, bool):
                raise TypeError
            value = operator.index(value)
        except TypeError:
            raise TypeError(f"{argument}: expected int, got {type(value).__name__}") from None
    if not least <= value <= most:
        raise ValueError(f"{argument}: expected {least} to {most}, got {value}")
    return value


def check_timeout(timeout: SupportsFloat, argument: str = "timeout") -> float:
    if type(timeout) is not float:
        try:
            if isinstance(timeout, (bool, str, bytes, bytearray)):
                raise TypeError
            timeout = float(timeout)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(
                f"{argument}: expected seconds or None, got {type(timeout).__name__}"
            ) from None
    if not timeout >= 0:
        raise ValueError(f"{argument}: expected 0 seconds or more, got {timeout}")
    return timeout


def core_timeout(timeout: SupportsFloat | Default | None) -> float | None:
    """The core's way: None for the default, negative for no deadline."""
    if isinstance(timeout, Default):
        return None
    return -1.0 if timeout is None else check_timeout(timeout)


def check_flag(value: object, argument: str) -> bool:
    # NumPy's bool is none of Python's.
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise TypeError(f"{argument}: expected bool, got {type(value).__name__}")


def check_text(value: object, argument: str) -> str:
    """Text that C++ and other processes can have: of Unicode, and with no null character."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise TypeError(
            f"{argument}: expected str, not empty and without null characters, got {value!r}"
        )
    return check_unicode(value, argument)


def check_unicode(text: str, argument: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{argument}: expected text that UTF-8 can encode, got {text!r}") from None
    if "\0" in text:
        raise ValueError(f"{argument}: expected text without null characters, got {text!r}")
    return text


def check_path(path: str | os.PathLike[str], argument: str) -> str:
    try:
        text = os.fsdecode(path)
    except TypeError:
        raise TypeError(
            f"{argument}: expected str or os.PathLike, got {type(path).__name__}"
        ) from None
    return check_unicode(text, argument)


def check_parameters(
    parameters: Mapping[str, str | float | SupportsIndex] | None, argument: str
) -> dict[str, str]:
    """What NIXL takes as text may be given as numbers."""
    if parameters is None:
        return {}
    if not isinstance(parameters, Mapping):
        raise TypeError(f"{argument}: expected a mapping of str, got {type(parameters).__name__}")
    texts = {}
    for name, value in parameters.items():
        where = f"{argument}[{name!r}]"
        if not isinstance(name, str):
            raise TypeError(f"{argument}: expected str as its keys, got {type(name).__name__}")
        if isinstance(value, bool) or not isinstance(value, (str, float, SupportsIndex)):
            raise TypeError(f"{where}: expected str or a number, got {type(value).__name__}")
        texts[check_unicode(name, argument)] = check_unicode(str(value), where)
    return texts
