"""What a connector has done and holds, in figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["ConnectorStats", "OperationStats"]


@dataclass(frozen=True)
class OperationStats:
    """What became of the operations of one kind that have ended and released their memory."""

    complete: int
    cancelled: int
    errored: int
    failures: dict[str, int]
    """Failed operations by reason, named as in C++'s ``ErrorCode``: ``"timed_out"`` for
    `DeadlineExceededError`, ``"peer_disconnected"`` for `PeerDisconnectedError` and so on."""
    bytes: int
    """Of the complete ones."""
    total_latency: float
    """Seconds that the complete ones took together, each from the call that made it until it was
    complete here. For a passive one this includes the wait for its peer."""
    latency: tuple[int, ...]
    """Counts of the complete ones: ``latency[i]`` of them took less than ``2**i`` microseconds, and
    not less than half of that. The last count has all that took longer."""


@dataclass(frozen=True)
class ConnectorStats:
    """What a connector has done and holds, at one moment.

    Each figure is correct, but two figures may be a moment apart. `dataclasses.asdict` turns this
    into a dictionary for JSON.
    """

    operations: dict[str, OperationStats]
    """By kind: ``"readable"``, ``"writable"``, ``"read"`` and ``"write"``."""
    fenced: int
    """Operations that wait for work on a GPU."""
    waiting: int
    """Passive operations that wait for a peer, or linger."""
    lingering: int
    """Those among `waiting` that have ended here, but whose memory a peer uses or may use."""
    lingering_bytes: int
    """Bytes of memory of those that linger."""
    oldest_waiting: float
    """Seconds since the making of the oldest passive operation that waits and does not linger."""
    in_flight: int
    """Transfers that NIXL has not completed."""
    oldest_in_flight: float
    """Seconds since the oldest of them was made."""
    registered_regions: int
    """Regions that are registered with NIXL, by hand or for an operation."""
    peers: int
    """Remote agents that are loaded."""
    notifications_matched: int
    """Operations whose peer has reported completion or failure."""
    notifications_unknown: int
    """Late, duplicate and foreign notifications; counted and dropped."""
    notifications_sent: int
    """Messages that the engine itself has sent; each reports one failure, or any number of
    successes. NIXL's own notifications, which go with a transfer, are not counted."""
    notifications_refused: int
    """How often NIXL refused to send a message; each attempt counts."""
    engine_wakeups: int
    """How often the engine's threads have woken up."""
    engine_cpu_seconds: float
    """Processor time of the engine's threads."""

    @classmethod
    def _of(cls, figures: dict[str, Any]) -> ConnectorStats:
        operations = {kind: OperationStats(**of) for kind, of in figures["operations"].items()}
        return cls(**{**figures, "operations": operations})

    @property
    def complete(self) -> int:
        """Operations of all kinds that were complete."""
        return sum(of.complete for of in self.operations.values())

    @property
    def cancelled(self) -> int:
        """Operations of all kinds that were cancelled on this side."""
        return sum(of.cancelled for of in self.operations.values())

    @property
    def errored(self) -> int:
        """Operations of all kinds that failed."""
        return sum(of.errored for of in self.operations.values())
