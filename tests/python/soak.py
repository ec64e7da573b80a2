"""Operations without end, or nearly: what must stay flat is printed as a table and a plot.

Two connectors in one process move fresh buffers of varying sizes to each other; one operation
in fifty is cancelled. The first tenth warms up; growth is what comes after it.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import random
import sys
import time
import weakref
from pathlib import Path

os.environ.setdefault("UCX_NET_DEVICES", "lo")

import nixl_connect as nc
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

SAMPLES = 10
# What may grow after the warm-up, and by how much; everything else by nothing.
ALLOWED = {"resident MiB": 8.0, "open descriptors": 2, "threads": 0}
_M_MMAP_THRESHOLD = -3
HELD = ("waiting", "in_flight", "registered_regions", "peers")


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def sample(connectors: list[nc.Connector]) -> dict[str, float]:
    gc.collect()
    held: dict[str, float] = {
        "resident MiB": resident_mib(),
        "open descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }
    stats = [connector.stats() for connector in connectors]
    for name in (*HELD, "notifications_unknown"):
        held[name] = sum(getattr(s, name) for s in stats)
    return held


# What operations use, by identity. It goes when the event loop has heard that they have let go.
buffers: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()  # type: ignore[type-arg]


def buffer(size: int, fill: int) -> np.ndarray:  # type: ignore[type-arg]
    made = np.full(size, fill, dtype=np.uint8)
    buffers[id(made)] = made
    return made


async def operate(owner: nc.Connector, mover: nc.Connector, size: int, fill: int) -> None:
    source, target = buffer(size, fill), buffer(size, 0)
    if fill % 2 == 0:
        passive: nc.PassiveOperation = await owner.create_readable(nc.Descriptor(source))
        active: nc.ActiveOperation = await mover.begin_read(
            passive.metadata(), nc.Descriptor(target)
        )
    else:
        passive = await owner.create_writable(nc.Descriptor(target))
        active = await mover.begin_write(nc.Descriptor(source), passive.metadata())
    if fill % 50 == 0:
        active.cancel()
    await active.wait_for_completion()
    if active.status is nc.OperationStatus.COMPLETE:
        await passive.wait_for_completion()
        if target[0] != fill or not np.array_equal(source, target):
            raise AssertionError("wrong bytes")
    else:
        passive.cancel()


async def soak(
    operations: int, size: int, in_flight: int, progress: Progress
) -> tuple[list[int], list[dict[str, float]]]:
    at: list[int] = []
    samples: list[dict[str, float]] = []
    sizes = random.Random(1)
    bar = progress.add_task(f"{operations:,} operations of up to {size:,} bytes", total=operations)
    async with nc.Connector("left", linger=0) as left, nc.Connector("right", linger=0) as right:
        done = 0
        while done < operations:
            chunk = min(max(operations // SAMPLES, 1), operations - done)
            numbers = iter(range(done, done + chunk))

            async def client(numbers: object = numbers) -> None:
                for number in numbers:  # type: ignore[attr-defined]
                    pair = (left, right) if number % 3 else (right, left)
                    await operate(*pair, sizes.randint(max(1, size // 2), size), number % 251)
                    progress.advance(bar)

            await asyncio.gather(*[client() for _ in range(in_flight)])
            done += chunk
            for _ in range(1000):
                held = sample([left, right])
                about = held["waiting"] + held["in_flight"] + held["registered_regions"]
                if about == 0 and not buffers:
                    break
                await asyncio.sleep(0.01)
            at.append(done)
            samples.append(held)
    return at, samples


def plot(path: str, at: list[int], samples: list[dict[str, float]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    names = list(samples[0])
    figure, axes = pyplot.subplots(len(names), 1, sharex=True, figsize=(8, 1.6 * len(names)))
    for axis, name in zip(axes, names, strict=True):
        axis.plot(at, [s[name] for s in samples], marker=".")
        axis.set_title(name, fontsize=9, loc="left")
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("operations")
    figure.tight_layout()
    figure.savefig(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operations", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=4096, help="bytes, at most")
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--plot", help="an SVG file to write")
    options = parser.parse_args()

    # What is freed is unmapped at once.
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 16)
    console = Console()
    began = time.monotonic()
    with Progress(console=console) as progress:
        at, samples = asyncio.run(
            soak(options.operations, options.size, options.in_flight, progress)
        )
    table = Table(title=f"{options.operations:,} operations in {time.monotonic() - began:.0f} s")
    table.add_column("operations", justify="right")
    for name in samples[0]:
        table.add_column(name, justify="right")
    for number, held in zip(at, samples, strict=True):
        table.add_row(f"{number:,}", *[f"{value:,.10g}" for value in held.values()])
    console.print(table)
    if options.plot:
        plot(options.plot, at, samples)
        console.print(f"plot: {options.plot}")

    warm, last = samples[0], samples[-1]
    grown = {
        name: last[name] - warm[name]
        for name in (*ALLOWED, *HELD)
        if last[name] - warm[name] > ALLOWED.get(name, 0)
    }
    if grown:
        console.print(f"has grown: {grown}")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
