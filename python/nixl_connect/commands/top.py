"""What the connectors of a worker do at this moment, by the metrics that it exposes."""

from __future__ import annotations

import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPException

from prometheus_client.parser import text_string_to_metric_families
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

__all__ = ["MetricsError", "Sample", "fetch", "tables", "url_of"]

_PREFIX = "nixl_connect_"
_TIMEOUT = 5.0
_ACTIVE = ("read", "write")
_PASSIVE = ("readable", "writable")
_FIGURES = (
    "reads/s",
    "writes/s",
    "served/s",
    "bytes/s",
    "mean time",
    "engine CPU",
    "waiting",
    "  oldest",
    "in flight",
    "  oldest in flight",
    "lingering",
    "regions",
    "peers",
    "failed",
)
_LABELS, _COLUMN = 22, 12
"""Characters of the first column, and of a connector's."""


class MetricsError(Exception):
    """There are no metrics, or none of nixl_connect's."""


@dataclass
class Sample:
    """The figures of one scrape, by connector: of each metric by its labels' values in the order
    of their names, "connector" apart."""

    at: float
    figures: dict[str, dict[tuple[str, ...], float]] = field(default_factory=dict)

    def value(self, connector: str, *key: str) -> float:
        return self.figures.get(connector, {}).get(key, 0.0)


def url_of(address: str) -> str:
    """The metrics' address, of ``host:port`` or a whole URL."""
    url = address if "://" in address else f"http://{address}"
    scheme, _, rest = url.partition("://")
    return url if "/" in rest else f"{scheme}://{rest}/metrics"


def fetch(url: str) -> Sample:
    """Scrape once.

    Raises
    ------
    MetricsError
        When nothing answers there, or has none of nixl_connect's metrics.
    """
    if not url.startswith(("http://", "https://")):
        raise MetricsError(f"{url}: expected host:port, or an address of http or https")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            text = answer.read().decode()
        sample = Sample(time.monotonic())
        for family in text_string_to_metric_families(text):
            for name, labels, value, *_ in family.samples:
                if not name.startswith(_PREFIX) or "connector" not in labels:
                    continue
                key = (name.removeprefix(_PREFIX), *_values(labels))
                sample.figures.setdefault(labels["connector"], {})[key] = value
    except (OSError, HTTPException, ValueError) as error:
        raise MetricsError(f"{url}: no metrics: {error}") from None
    if not sample.figures:
        raise MetricsError(
            f"{url} has no metric of nixl_connect: register a ConnectorCollector of "
            "nixl_connect.metrics there"
        )
    return sample


def _values(labels: dict[str, str]) -> Iterator[str]:
    return (labels[name] for name in sorted(labels) if name != "connector")


def tables(before: Sample, now: Sample, width: int) -> Iterator[Table]:
    """A column for each connector, in as many tables as `width` characters ask for: rates since
    `before`, and what is held now."""
    connectors = sorted(now.figures)
    at_once = max((width - _LABELS) // _COLUMN, 1)
    for first in range(0, len(connectors), at_once):
        some = connectors[first : first + at_once]
        made = Table(box=None, pad_edge=False)
        made.add_column()
        for connector in some:
            name = connector or "(others)"
            made.add_column(Text(name), justify="right", overflow="fold", max_width=2 * _COLUMN)
        columns = [_column(connector, before, now) for connector in some]
        for label in _FIGURES:
            made.add_row(label, *(column[label] for column in columns))
        reasons = {reason for connector in some for reason in _reasons(connector, now)}
        for reason in sorted(reasons):
            counts = (_reasons(connector, now)[reason] for connector in some)
            made.add_row(Text(f"  {reason}"), *(f"{count:,}" if count else "" for count in counts))
        yield made


def _column(connector: str, before: Sample, now: Sample) -> dict[str, str]:
    seconds = max(now.at - before.at, 1e-9)

    def more(*key: str) -> float:
        # A worker that has started anew counts from zero.
        return max(now.value(connector, *key) - before.value(connector, *key), 0.0)

    def complete(*kinds: str) -> float:
        return sum(more("operations_total", kind, "complete") for kind in kinds)

    def age(of: str) -> str:
        seconds = now.value(connector, f"oldest_{of}_seconds")
        return _time_text(seconds) if seconds else "-"

    count = complete(*_ACTIVE)
    took = sum(more("operation_seconds_sum", kind) for kind in _ACTIVE)
    moved = sum(more("bytes_total", kind) for kind in (*_ACTIVE, *_PASSIVE))
    figures = (
        f"{complete('read') / seconds:,.0f}",
        f"{complete('write') / seconds:,.0f}",
        f"{complete(*_PASSIVE) / seconds:,.0f}",
        decimal(round(moved / seconds)),
        _time_text(took / count) if count else "-",
        f"{more('engine_cpu_seconds_total') / seconds:.0%}",
        f"{now.value(connector, 'waiting'):,.0f}",
        age("waiting"),
        f"{now.value(connector, 'in_flight'):,.0f}",
        age("in_flight"),
        decimal(round(now.value(connector, "lingering_bytes"))),
        f"{now.value(connector, 'registered_regions'):,.0f}",
        f"{now.value(connector, 'peers'):,.0f}",
        f"{sum(_reasons(connector, now).values()):,}",
    )
    return dict(zip(_FIGURES, figures, strict=True))


def _reasons(connector: str, now: Sample) -> Counter[str]:
    """How many operations have failed, by why."""
    reasons: Counter[str] = Counter()
    for (name, *rest), value in now.figures[connector].items():
        if name == "failures_total" and value:
            reasons[rest[1]] += round(value)
    return reasons


def _time_text(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:,.0f} µs"
    return f"{seconds * 1e3:,.1f} ms" if seconds < 1 else f"{seconds:,.1f} s"
