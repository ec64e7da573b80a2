"""POSIX shared memory, with the pipe for everything else: the owner copies in, the mover out."""

from __future__ import annotations

from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

STYLE = "spin"
NOTIFIES = False


def rows(segment: SharedMemory, buffers: list[np.ndarray]) -> np.ndarray:
    return np.ndarray((len(buffers), buffers[0].nbytes), dtype=np.uint8, buffer=segment.buf)


class Owner:
    def __init__(self, buffers: list[np.ndarray]) -> None:
        self._buffers = buffers
        self._segment = SharedMemory(create=True, size=len(buffers) * buffers[0].nbytes)
        self._rows = rows(self._segment, buffers)
        self.hello = {"name": self._segment.name}

    def offer(self, slot: int) -> dict[str, Any]:
        self._rows[slot] = self._buffers[slot]
        return {}

    def poll(self) -> list[int]:
        return []

    def release(self, slot: int) -> None:
        """The slot is free when the mover has said so."""

    def close(self) -> None:
        del self._rows
        self._segment.close()
        self._segment.unlink()


class Mover:
    def __init__(self, buffers: list[np.ndarray], hello: dict[str, Any]) -> None:
        self._buffers = buffers
        self._segment = SharedMemory(hello["name"])
        # The owner removes it.
        resource_tracker.unregister(self._segment._name, "shared_memory")  # type: ignore[attr-defined]
        self._rows = rows(self._segment, buffers)
        self._done: list[int] = []

    def begin(self, slot: int, message: dict[str, Any]) -> None:
        self._buffers[slot][:] = self._rows[slot]
        self._done.append(slot)

    def poll(self) -> list[int]:
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        del self._rows
        self._segment.close()
