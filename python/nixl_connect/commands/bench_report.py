"""One page of what ``nixl-connect bench`` has measured: tables, plots, and the machine's facts."""

from __future__ import annotations

import html
import importlib.metadata
import json
import os
import platform
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .bench_plot import BANDWIDTH, LATENCY, svg
from .bench_work import Figures, size_text

__all__ = ["ReportError", "Run", "compared", "write"]

_DATA = re.compile(r'<script type="application/json" id="run">(.*?)</script>', re.DOTALL)
_PACKAGES = ("nixl-connect", "nixl-cu12", "nixl-cu13", "torch", "uvloop")
_VARIABLES = re.compile("(UCX|NIXL)_")
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left }
.facts td { text-align: left }
figure { margin: 1rem 0; background: #fff } svg { max-width: 100%; height: auto }
div { overflow-x: auto }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #1b1e23 } }
"""


class ReportError(ValueError):
    """A file that is to be compared with has no run."""


@dataclass(frozen=True)
class Run:
    """The figures of one run, and what they were measured on."""

    title: str
    machine: dict[str, str]
    figures: list[Figures]

    @classmethod
    def now(cls, peer: str, figures: list[Figures]) -> Run:
        """What was measured a moment ago, from the peer of that name."""
        return cls(time.strftime("%Y-%m-%d %H:%M"), {"reads from": peer, **_machine()}, figures)

    @classmethod
    def load(cls, path: Path) -> Run:
        """Of a page that `write` has made, or of what ``--json`` has printed.

        Raises
        ------
        ReportError
            When it is neither, or cannot be read.
        """
        try:
            text = path.read_text()
            found = _DATA.search(text)
            data: Any = json.loads(found[1] if found else text)
            run = cls(path.name, {}, data) if isinstance(data, list) else cls(**data)
            for of in run.figures:
                assert {"size", "in_flight", BANDWIDTH, LATENCY} <= set(of)
        except (OSError, ValueError, TypeError, AssertionError) as error:
            reason = f": {error}" if isinstance(error, OSError) else ""
            raise ReportError(
                f"expected a page of --html, or what --json prints, got {path}{reason}"
            ) from None
        return run


def compared(run: Run, other: Run | None) -> list[tuple[Figures, float | None]]:
    """Each figure, and its rate over that of the other run at the same work, if that has it."""
    rates = {_work(of): float(of["reads_per_second"]) for of in other.figures} if other else {}
    return [
        (of, float(of["reads_per_second"]) / rates[_work(of)] if rates.get(_work(of)) else None)
        for of in run.figures
    ]


def write(path: Path, run: Run, other: Run | None = None) -> None:
    """The page, which needs no other file and no network."""
    runs = [(run.title, run.figures)] if other is None else []
    if other is not None:
        runs = [(f"now ({run.title})", run.figures), (f"before ({other.title})", other.figures)]
    plots = "".join(
        f"<figure>{svg([(name if other else '', of) for name, of in runs], what)}</figure>"
        for what in (BANDWIDTH, LATENCY)
    )
    machines = "".join(
        f"<h3>{html.escape(of.title)}</h3>{_facts(of.machine)}" for of in (run, other) if of
    )
    # Within a script nothing is escaped: only what would end it is written otherwise.
    data = json.dumps(asdict(run)).replace("<", "\\u003c")
    path.write_text(
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>nixl-connect bench, {html.escape(run.title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>nixl-connect bench</h1>
<p>{html.escape(run.title)}. Whole reads: offer, metadata, transfer, completion on both sides.</p>
<div>{_table(run, other)}</div>
{plots}
<h2>Measured on</h2>
<div>{machines}</div>
<script type="application/json" id="run">{data}</script>
</body>
</html>
"""
    )


def _work(of: Figures) -> tuple[object, ...]:
    return of["size"], of["in_flight"], of.get("kind", "cpu")


def _table(run: Run, other: Run | None) -> str:
    headings = ["size", "in flight", "p50", "p99", "reads/s", "GB/s"]
    if other is not None:
        headings.append("rate over before")
    rows = []
    for of, ratio in compared(run, other):
        cells = [
            size_text(int(of["size"])),
            str(of["in_flight"]),
            f"{of[LATENCY]:,} µs",
            f"{of['p99_us']:,} µs",
            f"{of['reads_per_second']:,}",
            f"{of[BANDWIDTH]:,}",
        ]
        if other is not None:
            cells.append("-" if ratio is None else f"{ratio:.2f}")
        rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _facts(machine: dict[str, str]) -> str:
    rows = (
        f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in machine.items()
    )
    return f'<table class="facts">{"".join(rows)}</table>' if machine else "<p>not known</p>"


def _machine() -> dict[str, str]:
    facts = {"processors": f"{os.cpu_count()}", "kernel": platform.release()}
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        cpuinfo = ""
    if model := re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE):
        facts["processors"] += f" of {model[1]}"
    facts["Python"] = platform.python_version()
    for package in _PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    facts |= {name: value for name, value in sorted(os.environ.items()) if _VARIABLES.match(name)}
    return facts
