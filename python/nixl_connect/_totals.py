"""The figures of all connectors of this process, by label: what was counted once stays counted.

Nothing is kept before this module is imported.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from typing import Any

from . import _core
from ._worker import Worker, watch_workers
from .errors import ForkedProcessError
from .stats import ConnectorStats

__all__ = ["HELD", "MOST_LABELS", "REST", "figures_by_label", "figures_by_name"]

HELD = (
    "fenced",
    "waiting",
    "lingering",
    "lingering_bytes",
    "oldest_waiting",
    "in_flight",
    "oldest_in_flight",
    "registered_regions",
    "peers",
)
"""What a connector has at the moment: nothing when it is closed."""
MOST_LABELS = 1000
"""As many names get a label of their own: the first that are seen."""
REST = ""
"""The label of all others; no connector has such a name."""

Figures = dict[str, Any]
"""As the core gives them."""


class _Entry:
    """A connector, in whose core its figures are until it has been collected."""

    __slots__ = ("core", "name")

    def __init__(self, worker: Worker) -> None:
        self.name = worker.name
        self.core = worker._core


class _Totals:
    """A connector has an entry until its figures are added to its label's sum, which happens with
    the lock held: whoever reads with the lock held finds it in one of the two places.

    The garbage collector calls `_retire` in the middle of anything, also of what holds the lock:
    that does not wait for it, and leaves its work to the holder.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[int, _Entry] = {}
        self._retired: deque[_Entry] = deque()
        self._sums: dict[str, Figures] = {}
        self._labels: set[str] = set()

    def add(self, worker: Worker) -> None:
        entry = _Entry(worker)
        if self._entries.setdefault(id(entry.core), entry) is entry:
            weakref.finalize(worker, self._retire, entry).atexit = False

    def read(self) -> dict[str, Figures]:
        with self._lock:
            self._fold_locked()
            figures = dict(self._sums)
            for entry in self._entries.copy().values():
                if not _is_of_parent(entry.core):
                    _add(figures, self._label(entry.name), _figures(entry.core))
        self._fold()
        return figures

    def begin_anew(self) -> None:
        """In a forked child, where another thread may have held the lock. What the parent has done
        is the parent's to tell."""
        self._lock = threading.Lock()
        self._sums.clear()

    def _retire(self, entry: _Entry) -> None:
        entry.core.close()
        self._retired.append(entry)
        self._fold()

    def _fold(self) -> None:
        while self._retired and self._lock.acquire(blocking=False):
            try:
                self._fold_locked()
            finally:
                self._lock.release()

    def _fold_locked(self) -> None:
        while self._retired:
            entry = self._retired.popleft()
            if not _is_of_parent(entry.core):
                _add(self._sums, self._label(entry.name), _figures(entry.core))
            del self._entries[id(entry.core)]

    def _label(self, name: str) -> str:
        if name not in self._labels:
            if len(self._labels) >= MOST_LABELS:
                return REST
            self._labels.add(name)
        return name


def figures_by_label() -> dict[str, ConnectorStats]:
    """Of every connector since this module was imported, or made before and open then."""
    return _as_stats(_totals.read())


def figures_by_name(workers: tuple[Worker, ...]) -> dict[str, ConnectorStats]:
    """Of these; those of one name are added up."""
    figures: dict[str, Figures] = {}
    for worker in workers:
        if not _is_of_parent(worker._core):
            _add(figures, worker.name, _figures(worker._core))
    return _as_stats(figures)


def _as_stats(figures: dict[str, Figures]) -> dict[str, ConnectorStats]:
    return {label: ConnectorStats._of(of) for label, of in figures.items()}


def _figures(core: _core.Connector) -> Figures:
    figures = core.stats()
    return {**figures, **dict.fromkeys(HELD, 0)} if core.closed else figures


def _is_of_parent(core: _core.Connector) -> bool:
    """Whether it was started before this process was forked."""
    try:
        core.check_started()
    except ForkedProcessError:
        return True
    except Exception:
        pass  # closed, or failed to start
    return False


def _add(figures: dict[str, Figures], label: str, more: Figures) -> None:
    figures[label] = _sum(figures[label], more) if label in figures else more


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
        return {
            key: (max if key.startswith("oldest_") else _sum)(value, other[key])
            for key, value in one.items()
        }
    if isinstance(one, tuple):
        return tuple(map(_sum, one, other))
    return one + other


_totals = _Totals()
os.register_at_fork(after_in_child=lambda: _totals.begin_anew())
watch_workers(_totals.add)
