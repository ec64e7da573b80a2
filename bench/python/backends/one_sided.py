"""What the engines of Mooncake and connex-rs have in common: registration by address, and one-sided
reads that tell the owner nothing, so that it learns of the end over the pipe."""

from __future__ import annotations

from typing import Any

import numpy as np


class Registered:
    """The buffers of a side, registered with its engine one operation at a time."""

    def __init__(self, engine: Any, buffers: list[np.ndarray]) -> None:
        self._engine = engine
        self._buffers = buffers

    def register(self, slot: int) -> None:
        buffer = self._buffers[slot]
        if self._engine.register_memory(buffer.ctypes.data, buffer.nbytes):
            raise RuntimeError(f"{type(self._engine).__module__} did not register a buffer")

    def unregister(self, slot: int) -> None:
        if self._engine.unregister_memory(self._buffers[slot].ctypes.data):
            raise RuntimeError(f"{type(self._engine).__module__} did not unregister a buffer")


class Offering(Registered):
    """The owner's side."""

    def offer(self, slot: int) -> dict[str, Any]:
        self.register(slot)
        return {"address": self._buffers[slot].ctypes.data}

    def poll(self) -> list[int]:
        return []

    def release(self, slot: int) -> None:
        self.unregister(slot)
