"""Figures of connectors for Prometheus. Needs the package ``prometheus_client``: the extra
``metrics``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ._totals import figures_by_label, figures_by_name
from .connector import Connector
from .stats import ConnectorStats, OperationStats

__all__ = ["ConnectorCollector"]

_GAUGES = {
    "fenced": "Operations that wait for work on a GPU",
    "waiting": "Offers that wait for a peer, or linger",
    "lingering": "Offers that have ended here, and whose memory a peer may still read or write",
    "lingering_bytes": "Bytes of memory of the offers that linger",
    "oldest_waiting_seconds": "Age of the oldest offer that waits and does not linger",
    "in_flight": "Transfers that have begun and are not complete",
    "oldest_in_flight_seconds": "Age of the oldest transfer that is not complete",
    "registered_regions": "Regions of memory that are registered with NIXL",
    "peers": "Remote agents whose metadata is loaded",
}
_COUNTERS = {
    "engine_wakeups": "How often the engine's threads have woken up",
    "engine_cpu_seconds": "Processor time of the engine's threads, in seconds",
}
_FATES = ("matched", "unknown", "sent", "refused")
_STATUSES = ("complete", "cancelled", "errored")


class ConnectorCollector(Collector):
    """Figures of connectors, to be registered with a Prometheus registry.

    Every metric begins with ``nixl_connect_`` and has the label ``connector``, the connector's
    name; connectors of one name are added up. A scrape starts nothing, and holds nobody up for
    longer than a millisecond for each connector.

    Counters never fall while the process lives: what a connector has counted stays in its name's
    sum after the connector is closed and garbage-collected. Each of the first 1000 names has a
    label of its own, and all others share ``connector=""``; name connectors by their purpose. A
    forked child counts from zero, and leaves its parent's connectors out.

    A registry takes one such collector, and raises `ValueError` for a second one even if it has
    other connectors: a metric's name may come only once. Give all connectors to one collector.

    In multiprocess mode (``PROMETHEUS_MULTIPROC_DIR``) prometheus_client reads the figures of all
    processes from files, and no collector writes to them. Set `per_process` then, and let each
    process expose a registry of its own, at a port of its own.

    Example: ``prometheus_client.REGISTRY.register(ConnectorCollector())``.

    Thread safety: may be asked from any thread.

    Parameters
    ----------
    connectors
        The connectors; the collector keeps them alive. If none is given, all of this process:
        those that are open when `nixl_connect.metrics` is imported, and those made later.
    per_process
        Whether, in prometheus_client's multiprocess mode, the registry is exposed by each process
        for itself. Without that mode it has no effect.

    Raises
    ------
    TypeError
        When an argument is not a `Connector`.
    ValueError
        When the environment asks for the multiprocess mode, and `per_process` is not set.
    """

    def __init__(self, *connectors: Connector, per_process: bool = False) -> None:
        for connector in connectors:
            if not isinstance(connector, Connector):
                raise TypeError(f"connectors: expected Connector, got {type(connector).__name__}")
        if not per_process and _is_multiprocess():
            raise ValueError(
                "per_process: expected True, for PROMETHEUS_MULTIPROC_DIR is set: in that mode "
                "prometheus_client exposes what its own metrics write to files, and asks no "
                "collector; expose a registry with this one from each process by itself"
            )
        self._connectors = connectors

    def describe(self) -> Iterable[Metric]:
        """The metrics without figures; asks no connector."""
        return _metrics({})

    def collect(self) -> Iterable[Metric]:
        """The metrics with the figures of this moment."""
        of_these = self._connectors
        return _metrics(figures_by_name(of_these) if of_these else figures_by_label())


def _is_multiprocess() -> bool:
    # As prometheus_client looks at it.
    return any(f in os.environ for f in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"))


def _metrics(figures: dict[str, ConnectorStats]) -> Iterator[Metric]:
    yield from _operations(figures)
    notifications = CounterMetricFamily(
        "nixl_connect_notifications",
        "Notifications by what became of them: matched with an operation, unknown and dropped, "
        "sent, or refused by NIXL",
        labels=["connector", "fate"],
    )
    for label, stats in figures.items():
        for fate in _FATES:
            notifications.add_metric([label, fate], getattr(stats, f"notifications_{fate}"))
    yield notifications
    for figure, help_text in _GAUGES.items():
        gauge = GaugeMetricFamily(f"nixl_connect_{figure}", help_text, labels=["connector"])
        for label, stats in figures.items():
            gauge.add_metric([label], getattr(stats, figure.removesuffix("_seconds")))
        yield gauge
    for figure, help_text in _COUNTERS.items():
        counter = CounterMetricFamily(f"nixl_connect_{figure}", help_text, labels=["connector"])
        for label, stats in figures.items():
            counter.add_metric([label], getattr(stats, figure))
        yield counter


def _operations(figures: dict[str, ConnectorStats]) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "nixl_connect_operations",
        "Operations that have ended and released their memory",
        labels=["connector", "kind", "status"],
    )
    failed = CounterMetricFamily(
        "nixl_connect_failures",
        "Operations that have failed, by why, in the words of C++'s ErrorCode",
        labels=["connector", "kind", "reason"],
    )
    moved = CounterMetricFamily(
        "nixl_connect_bytes",
        "Bytes that complete operations have moved",
        labels=["connector", "kind"],
    )
    latency = HistogramMetricFamily(
        "nixl_connect_operation_seconds",
        "Seconds that complete operations took, from the call that made them to completion",
        labels=["connector", "kind"],
    )
    for label, stats in figures.items():
        for kind, of in stats.operations.items():
            for status in _STATUSES:
                ended.add_metric([label, kind, status], getattr(of, status))
            for reason, count in of.failures.items():
                failed.add_metric([label, kind, reason], count)
            moved.add_metric([label, kind], of.bytes)
            latency.add_metric([label, kind], buckets=_buckets(of), sum_value=of.total_latency)
    yield ended
    yield failed
    yield moved
    yield latency


def _buckets(of: OperationStats) -> list[tuple[str, float]]:
    """Prometheus counts what is at most so long; the core what is less, in powers of two."""
    *counts, _ = of.latency
    buckets = [(str(2**i / 1e6), float(count)) for i, count in enumerate(accumulate(counts))]
    return [*buckets, ("+Inf", float(sum(of.latency)))]
