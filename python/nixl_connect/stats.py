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
    """Those that failed, by why, in the words of C++'s ``ErrorCode``: ``"timed_out"`` for
    `DeadlineExceededError`, ``"peer_disconnected"`` for `PeerDisconnectedError` and so on."""
    bytes: int
    """Of the complete ones."""
    total_latency: float
    """Seconds that the complete ones took together, each from the call that made it until it was
    complete here. A passive one has waited for its peer meanwhile."""
    latency: tuple[int, ...]
    """Of the complete ones: ``latency[i]`` took less than ``2**i`` microseconds, and not less than
    half of that; the last took longer."""


@dataclass(frozen=True)
class ConnectorStats:
    """What a connector has done and holds, at one moment.

    Each figure is right; together they may be a moment apart. `dataclasses.asdict` makes a
    dictionary for JSON of it.
    """

    operations: dict[str, OperationStats]
    """By kind: ``"readable"``, ``"writable"``, ``"read"`` and ``"write"``."""
    fenced: int
    """Operations that wait for work on a GPU."""
    waiting: int
    """Passive operations that wait for a peer, or linger."""
    lingering: int
    """Of those, the ones that have ended here, but whose memory a peer is at, or may be."""
    lingering_bytes: int
    """Their bytes."""
    oldest_waiting: float
    """Seconds since the oldest passive operation was made that waits and does not linger."""
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
    """Messages that the engine itself has sent: of one failure each, and of any number of
    successes. NIXL's own, which go with a transfer, are not among them."""
    notifications_refused: int
    """Messages that NIXL would not send, each time it was asked."""
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
