"""What stands for an argument that was not given."""

from __future__ import annotations

from enum import Enum

__all__ = ["Default"]


class Default(Enum):
    """Stands for what was not given, where None is something to give."""

    TIMEOUT = "the connector's default"
    STREAM = "the streams that use the memory"
