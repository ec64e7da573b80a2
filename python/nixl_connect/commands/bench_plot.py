"""Draws what ``nixl-connect bench`` has measured. Needs matplotlib: the extra ``plot``."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .bench_work import Figures, size_text

__all__ = ["BANDWIDTH", "LATENCY", "plot", "svg"]

BANDWIDTH = "gigabytes_per_second"
LATENCY = "p50_us"
_AXES = {BANDWIDTH: "GB/s, more is better", LATENCY: "µs for a read (p50), less is better"}
_STYLES = ("-", "--")


def plot(figures: list[Figures], path: Path) -> None:
    """Bandwidth over size, a line for each number in flight, into a file."""
    _pyplot(path.suffix)
    figure = _draw([("", figures)], BANDWIDTH)
    figure.savefig(path)
    _close(figure)


def svg(runs: Sequence[tuple[str, list[Figures]]], what: str) -> str:
    """One figure over size, as SVG for a page: of one run, or of two under their names."""
    _pyplot(".svg")
    figure = _draw(runs, what)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    _close(figure)
    _, begin, rest = text.getvalue().partition("<svg")
    return begin + rest


def _draw(runs: Sequence[tuple[str, list[Figures]]], what: str) -> Any:
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7, 4))
    for (name, figures), style in zip(runs, _STYLES, strict=False):
        axes.set_prop_cycle(None)  # the same colour for the same number in flight
        for in_flight, group in _by_in_flight(figures):
            sizes = [of["size"] for of in group]
            label = f"{in_flight} in flight" + (f", {name}" if name else "")
            axes.plot(sizes, [of[what] for of in group], style, marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({int(of["size"]) for _, figures in runs for of in figures})
    axes.set_xticks(ticks, [size_text(size) for size in ticks])
    axes.set_ylabel(_AXES[what])
    axes.set_title("nixl_connect: whole reads")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    return figure


def _pyplot(suffix: str = "") -> Any:
    import matplotlib as mpl

    if suffix:
        mpl.use("svg" if suffix == ".svg" else "agg")
        mpl.rcParams["svg.hashsalt"] = "nixl_connect"
    import matplotlib.pyplot as plt

    return plt


def _close(figure: Any) -> None:
    _pyplot().close(figure)


def _by_in_flight(figures: list[Figures]) -> Iterator[tuple[int, list[Figures]]]:
    key = lambda of: int(of["in_flight"])  # noqa: E731
    for in_flight, group in itertools.groupby(sorted(figures, key=key), key=key):
        yield in_flight, sorted(group, key=lambda of: int(of["size"]))
