"""Figures of connectors for Prometheus. Needs the package ``prometheus_client``: the extra
``metrics``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ._worker import open_workers
from .connector import Connector
from .stats import ConnectorStats, OperationStats

__all__ = ["ConnectorCollector"]

_GAUGES = {
    "fenced": "Operations that wait for work on a GPU",
    "waiting": "Passive operations that wait for a peer, or linger",
    "in_flight": "Transfers that NIXL has not completed",
    "registered_regions": "Regions that are registered with NIXL",
    "peers": "Remote agents that are loaded",
}
_COUNTERS = {
    "engine_wakeups": "How often the engine's threads have woken up",
    "engine_cpu_seconds": "Processor time of the engine's threads",
}


class ConnectorCollector(Collector):
    """Figures of connectors, to be registered with a Prometheus registry.

    Every metric begins with ``nixl_connect_`` and has the label ``connector``. Asking starts
    nothing, and holds nobody up for longer than a millisecond for each connector.

    Example: ``prometheus_client.REGISTRY.register(ConnectorCollector())``.

    Thread safety: may be asked from any thread.

    Parameters
    ----------
    connectors
        The connectors; none for all that are open in this process when figures are asked for.
        Those of one name are added up.
    """

    def __init__(self, *connectors: Connector) -> None:
        for connector in connectors:
            if not isinstance(connector, Connector):
                raise TypeError(f"connectors: expected Connector, got {type(connector).__name__}")
        self._connectors = connectors

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        by_name: dict[str, list[ConnectorStats]] = {}
        for connector in self._connectors or open_workers():
            by_name.setdefault(connector.name, []).append(connector.stats())
        yield from _operations(by_name)
        notifications = CounterMetricFamily(
            "nixl_connect_notifications",
            "Notifications by what became of them",
            labels=["connector", "fate"],
        )
        for name, all_stats in by_name.items():
            for fate in ("matched", "unknown", "sent", "refused"):
                notifications.add_metric([name, fate], _sum(all_stats, f"notifications_{fate}"))
        yield notifications
        for figure, help_text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"nixl_connect_{figure}", help_text, labels=["connector"])
            for name, all_stats in by_name.items():
                gauge.add_metric([name], _sum(all_stats, figure))
            yield gauge
        for figure, help_text in _COUNTERS.items():
            counter = CounterMetricFamily(f"nixl_connect_{figure}", help_text, labels=["connector"])
            for name, all_stats in by_name.items():
                counter.add_metric([name], _sum(all_stats, figure))
            yield counter


def _sum(all_stats: list[ConnectorStats], figure: str) -> float:
    return float(sum(getattr(stats, figure) for stats in all_stats))


def _operations(by_name: dict[str, list[ConnectorStats]]) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "nixl_connect_operations",
        "Operations that have ended and released their memory",
        labels=["connector", "kind", "status"],
    )
    moved = CounterMetricFamily(
        "nixl_connect_bytes", "Bytes of complete operations", labels=["connector", "kind"]
    )
    latency = HistogramMetricFamily(
        "nixl_connect_operation_seconds",
        "How long complete operations took, from the call that made them to completion",
        labels=["connector", "kind"],
    )
    for name, all_stats in by_name.items():
        for kind in all_stats[0].operations:
            of_kind = [stats.operations[kind] for stats in all_stats]
            for status in ("complete", "cancelled", "errored"):
                count = sum(getattr(stats, status) for stats in of_kind)
                ended.add_metric([name, kind, status], float(count))
            moved.add_metric([name, kind], float(sum(stats.bytes for stats in of_kind)))
            total = sum(stats.total_latency for stats in of_kind)
            latency.add_metric([name, kind], buckets=_buckets(of_kind), sum_value=total)
    yield ended
    yield moved
    yield latency


def _buckets(of_kind: list[OperationStats]) -> list[tuple[str, float]]:
    """Prometheus counts what is at most so long; the core what is less, in powers of two."""
    *counts, longest = [sum(column) for column in zip(*(s.latency for s in of_kind), strict=True)]
    buckets = [(str(2**i / 1e6), float(count)) for i, count in enumerate(accumulate(counts))]
    return [*buckets, ("+Inf", float(sum(counts) + longest))]
