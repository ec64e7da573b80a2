"""Draws what ``nixl-connect bench`` has measured. Needs matplotlib: the extra ``plot``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from .bench_work import Result, size_text

__all__ = ["plot"]


def plot(results: list[Result], path: Path) -> None:
    """Bandwidth over size, a line for each number in flight. Needs matplotlib."""
    import matplotlib as mpl

    mpl.use(path.suffix.removeprefix(".") if path.suffix == ".svg" else "agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for in_flight, group in _by_in_flight(results):
        sizes = [r.work.size for r in group]
        rates = [r.rate * r.work.size / 1e9 for r in group]
        axes.plot(sizes, rates, marker="o", label=f"{in_flight} in flight")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({r.work.size for r in results})
    axes.set_xticks(ticks, [size_text(size) for size in ticks])
    axes.set_ylabel("GB/s, more is better")
    axes.set_title("nixl_connect: whole reads")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _by_in_flight(results: list[Result]) -> Iterator[tuple[int, list[Result]]]:
    key = lambda result: result.work.in_flight  # noqa: E731
    for in_flight, group in itertools.groupby(sorted(results, key=key), key=key):
        yield in_flight, sorted(group, key=lambda result: result.work.size)
