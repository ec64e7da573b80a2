"""The same work through each library, alternating in one run, so that a noisy machine hurts
all alike. Prints a table; ratios are taken within the run."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

HERE = Path(__file__).parent


@dataclass
class Backend:
    name: str
    library: str
    needs: tuple[str, ...]
    # Operations to measure, by how many are in flight.
    operations: dict[int, int]
    options: tuple[str, ...] = ()

    def missing(self) -> str | None:
        for module in self.needs:
            if importlib.util.find_spec(module) is None:
                return f"no module {module}"
        return None


FAST = {1: 3000, 256: 10_000}
BACKENDS = [
    Backend("nixl_connect", "nixl_connect", (), FAST),
    Backend("nixl_connect, uvloop", "nixl_connect", ("uvloop",), FAST, ("--uvloop",)),
    Backend("null (asyncio alone)", "null_backend", (), FAST),
    Backend(
        "dynamo.nixl_connect",
        "dynamo.nixl_connect",
        ("dynamo", "nixl", "torch"),
        {1: 150, 256: 1500},
    ),
]


@dataclass
class Figures:
    times: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def run(backend: Backend, size: int, in_flight: int, operations: int) -> dict[str, object]:
    result = subprocess.run(
        [
            sys.executable,
            HERE / "worker.py",
            f"--library={backend.library}",
            f"--size={size}",
            f"--in-flight={in_flight}",
            f"--operations={operations}",
            f"--warm-up={2 * in_flight + 20}",
            *backend.options,
        ],
        cwd=HERE,
        # Without UCX's EFA module bare NIXL exits in order on hosts that have libefa.
        env={
            **os.environ,
            "UCX_NET_DEVICES": "lo",
            "UCX_MODULES": "^efa",
            "NIXL_LOG_LEVEL": "ERROR",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise SystemExit(f"{backend.name} failed:\n{result.stderr[-4000:]}")
    figures: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    if not figures["right"]:
        raise SystemExit(f"{backend.name} moved wrong bytes")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096, help="bytes in an operation")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of operations")
    options = parser.parse_args()

    console = Console()
    backends = []
    for backend in BACKENDS:
        if reason := backend.missing():
            console.print(f"{backend.name}: skipped: {reason}")
        else:
            backends.append(backend)

    figures = {(b.name, n): Figures() for b in backends for n in b.operations}
    with Progress(console=console) as progress:
        bar = progress.add_task("Measuring", total=options.rounds * len(figures))
        for _ in range(options.rounds):
            for in_flight in sorted({n for b in backends for n in b.operations}):
                for backend in backends:
                    operations = max(1, int(backend.operations[in_flight] * options.scale))
                    result = run(backend, options.size, in_flight, operations)
                    into = figures[backend.name, in_flight]
                    into.times += result["times"]  # type: ignore[arg-type]
                    into.rates.append(operations / float(result["elapsed"]))  # type: ignore[arg-type]
                    into.cpu.append(float(result["cpu"]) / operations)  # type: ignore[arg-type]
                    progress.advance(bar)

    for in_flight in sorted({n for _, n in figures}):
        table = Table(title=f"{options.size} bytes, {in_flight} in flight, {options.rounds} rounds")
        for heading in ("", "p50", "p99", "operations/s", "CPU per operation, both sides"):
            table.add_column(heading, justify="left" if not heading else "right")
        for backend in backends:
            f = figures[backend.name, in_flight]
            table.add_row(
                backend.name,
                f"{statistics.median(f.times) * 1e6:,.0f} µs",
                f"{statistics.quantiles(f.times, n=100)[98] * 1e6:,.0f} µs",
                f"{statistics.median(f.rates):,.0f}",
                f"{statistics.median(f.cpu) * 1e6:,.0f} µs",
            )
        console.print(table)


if __name__ == "__main__":
    main()
