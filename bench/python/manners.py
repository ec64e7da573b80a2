"""What using the library does to the process beside moving bytes: stalls of the event loop, the
cost of waiting, of idling, of a new connection, of importing, and of having run for long.

Everything is in one process, so that a figure is the sum of both sides where both do something.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

os.environ.setdefault("UCX_NET_DEVICES", "lo")

import nixl_connect as nc
import numpy as np
from backends.memory import Buffer, described, on_device
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

Figure = tuple[str, float, str, str]
"""What it is, how much, in what unit, and what was asked for."""


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


class Pair:
    """Two connectors that know each other, and a buffer for each."""

    def __init__(self, size: int, device: str | None = None, **options: float) -> None:
        self.owner = nc.Connector("owner", **options)  # type: ignore[arg-type]
        self.mover = nc.Connector("mover", **options)  # type: ignore[arg-type]
        self.source = nc.Descriptor(described(allocate(size, 1, device)))
        self.target = nc.Descriptor(described(allocate(size, 0, device)))

    async def operate(self) -> float:
        began = time.perf_counter()
        with await self.owner.create_readable(self.source) as offer:
            text = offer.metadata().model_dump_json()
            metadata = nc.RdmaMetadata.model_validate_json(text)
            with await self.mover.begin_read(metadata, self.target) as read:
                await read.wait_for_completion()
            await offer.wait_for_completion()
        return time.perf_counter() - began

    async def warm(self) -> float:
        return statistics.median([await self.operate() for _ in range(300)][100:])

    async def __aenter__(self) -> Pair:
        await self.operate()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.owner.aclose()
        await self.mover.aclose()


def allocate(size: int, value: int, device: str | None) -> Buffer:
    if device is not None:
        return on_device(size, value, device)
    return np.ones(size, np.uint8) if value else np.zeros(size, np.uint8)


async def stall(options: argparse.Namespace) -> list[Figure]:
    worst = []
    for _ in range(3):
        async with Pair(1 << 30, options.device) as pair:
            moving = asyncio.create_task(pair.operate())
            longest = 0.0
            last = time.perf_counter()
            while not moving.done():
                await asyncio.sleep(0)
                now = time.perf_counter()
                longest = max(longest, now - last)
                last = now
            worst.append(longest)
    median = statistics.median(worst) * 1e3
    return [("longest stall of the event loop during 1 GiB", median, "ms", "≤ 2 ms")]


async def waiting(options: argparse.Namespace) -> list[Figure]:
    async with Pair(4096) as pair:
        offers = [await pair.owner.create_readable(pair.source) for _ in range(1000)]
        texts = [offer.metadata().model_dump_json() for offer in offers]
        await pair.mover.aclose()
        await asyncio.sleep(1)
        cpu = cpu_seconds()
        began = time.perf_counter()
        await asyncio.sleep(options.seconds)
        share = (cpu_seconds() - cpu) / (time.perf_counter() - began)
        for offer in offers:
            offer.cancel()
    async with Pair(4096) as pair, pair.owner.create_readable(pair.source) as offer:
        first = offer.metadata().model_dump_json()
    return [
        ("CPU while 1,000 offers wait", share * 100, "% of a core", "≤ 1 %"),
        ("metadata as JSON, 1 operation alive", len(first), "bytes", ""),
        ("metadata as JSON, 1,000 alive", len(texts[-1]), "bytes", "the same"),
    ]


async def idling(_: argparse.Namespace) -> list[Figure]:
    async with Pair(4096) as pair:
        warm = await pair.warm()
        first = []
        for _ in range(10):
            await asyncio.sleep(1)
            first.append(await pair.operate())
    more = (statistics.median(first) - warm) * 1e3
    return [("first operation after a second of idling, over a warm one", more, "ms", "≤ 1.5 ms")]


async def connection(_: argparse.Namespace) -> list[Figure]:
    times = []
    async with Pair(4096) as pair:
        pair.source.register_with_connector(pair.owner._shared_connection)
        # One that waits keeps the engine awake.
        async with pair.owner.create_readable(pair.source):
            for _ in range(3000):
                began = time.perf_counter()
                operation = await pair.owner.create_readable(pair.source)
                times.append(time.perf_counter() - began)
                operation.cancel()
    return [("a new connection, with its operation", statistics.median(times) * 1e6, "µs", "≤ 10")]


async def importing(_: argparse.Namespace) -> list[Figure]:
    def run(statement: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        return time.perf_counter() - began

    statements = (
        "pass",
        "import asyncio, pydantic",
        "import asyncio, pydantic, nixl_connect",
        "import nixl_connect",
        "import nixl_connect; nixl_connect.RdmaMetadata",
    )
    best = dict.fromkeys(statements, float("inf"))
    for _ in range(10):
        for statement in statements:
            best[statement] = min(best[statement], run(statement))
    bare, theirs, all_of_them, ours, models = best.values()
    return [
        ("import nixl_connect", (ours - bare) * 1e3, "ms", "≤ 150 ms"),
        ("the same, over asyncio and pydantic", (all_of_them - theirs) * 1e3, "ms", "≤ 25 ms"),
        ("the models, loaded beside the agent's start", (models - ours) * 1e3, "ms", ""),
    ]


async def long_run(options: argparse.Namespace) -> list[Figure]:
    async with Pair(4096) as pair:
        for _ in range(20_000):
            await pair.operate()
        before = resident_mib()
        # The start is taken once more at the end of each tenth, so that the machine's moods are
        # the same for both.
        start = [await pair.operate() for _ in range(5000)]
        for _ in range(options.operations):
            await pair.operate()
        end = [await pair.operate() for _ in range(5000)]
        growth = resident_mib() - before
    async with Pair(4096) as fresh:
        for _ in range(20_000):
            await fresh.operate()
        again = [await fresh.operate() for _ in range(5000)]
    ratio = statistics.median(end) / statistics.median(start)
    fresh_ratio = statistics.median(end) / statistics.median(again)
    title = f"after {options.operations:,} operations: "
    return [
        (title + "p50 over p50 at the start", ratio, "", "≤ 1.05"),
        (title + "p50 over that of fresh connectors", fresh_ratio, "", "≤ 1.05"),
        (title + "growth of memory", growth, "MiB", "≤ 8 MiB"),
    ]


FIGURES: dict[str, Callable[[argparse.Namespace], Awaitable[list[Figure]]]] = {
    "stall": stall,
    "waiting": waiting,
    "idling": idling,
    "connection": connection,
    "import": importing,
    "long-run": long_run,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=list(FIGURES))
    parser.add_argument("--device", help="the stall: with memory of this device")
    parser.add_argument("--seconds", type=float, default=10.0, help="to wait")
    parser.add_argument("--operations", type=int, default=1_000_000, help="of the long run")
    parser.add_argument("--output", type=Path, help="a folder for the figures (JSON)")
    options = parser.parse_args()
    figures: list[Figure] = []
    # Its refreshing would be a part of what is measured.
    with Progress(console=Console(width=100), auto_refresh=False) as progress:
        names = options.only or list(FIGURES)
        bar = progress.add_task("", total=len(names))
        for name in names:
            progress.update(bar, description=name.ljust(12), refresh=True)
            figures += asyncio.run(FIGURES[name](options))  # type: ignore[arg-type]
            progress.advance(bar)
    table = Table("", "measured", "asked")
    for what, value, unit, asked in figures:
        table.add_row(what, f"{value:,.4g} {unit}", asked)
    Console(width=100).print(table)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        record = {
            what: {"value": round(value, 4), "unit": unit} for what, value, unit, _ in figures
        }
        path = options.output / "manners.json"
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
