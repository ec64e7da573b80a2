"""How long the first request after a start takes, and the second: with nothing done before, with
`warmup`, and with `connect`.

``python bench/python/first_request.py --rounds 5``: 4 KiB, each round with processes of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("UCX_NET_DEVICES", "lo")

import nixl_connect as nc
import numpy as np
from rich.console import Console
from rich.table import Table

SIZE = 4096
PREPARATIONS = ("nothing", "warmup", "connect")


async def own() -> None:
    """Offers, once for each line."""
    loop = asyncio.get_running_loop()
    async with nc.Connector("owner") as connector:
        offers = []
        while await loop.run_in_executor(None, sys.stdin.readline):
            offers.append(await connector.create_readable(np.zeros(SIZE, np.uint8)))
            print(offers[-1].metadata().model_dump_json(), flush=True)


async def read(preparation: str) -> list[float]:
    """Seconds of the first two requests."""
    command = [sys.executable, __file__, "--own"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as owner:  # noqa: ASYNC220

        def offer() -> nc.RdmaMetadata:
            owner.stdin.write("\n")
            owner.stdin.flush()
            return nc.RdmaMetadata.model_validate_json(owner.stdout.readline())

        connector = nc.Connector("reader")
        known = offer()
        if preparation == "warmup":
            await connector.warmup()
        elif preparation == "connect":
            await connector.connect(known)
        seconds = []
        for _ in range(2):
            metadata = offer()
            target = np.zeros(SIZE, np.uint8)
            await asyncio.sleep(0.05)
            began = time.perf_counter()
            reading = await connector.begin_read(metadata, target)
            await reading.wait_for_completion()
            seconds.append(time.perf_counter() - began)
        owner.stdin.close()
        await connector.aclose()
    return seconds


def one(preparation: str) -> list[float]:
    """In a process of its own, which has loaded nothing of NIXL."""
    command = [sys.executable, __file__, "--read", preparation]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [float(word) for word in output.split()[-2:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--own", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.own:
        asyncio.run(own())
        return
    if options.read:
        print(*asyncio.run(read(options.read)))
        return
    rounds = [{p: one(p) for p in PREPARATIONS} for _ in range(options.rounds)]
    table = Table("done before", "first request", "second", title="medians")
    for preparation in PREPARATIONS:
        medians = [statistics.median(r[preparation][i] for r in rounds) * 1e3 for i in range(2)]
        table.add_row(preparation, *(f"{value:.1f} ms" for value in medians))
    Console().print(table)


if __name__ == "__main__":
    main()
