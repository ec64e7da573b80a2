"""Measures whole reads from another process, here or elsewhere.

The measuring side asks over TCP, in JSON lines, and reads; the serving side offers. One read is
all of it: ask, register and offer, metadata back, register and read, completion seen on both sides.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable

import nixl_connect as nc

from .bench_peer import Child, Lines, Server
from .bench_work import TIMEOUT, Result, Work, allocate

__all__ = ["measure"]

_ANSWER_TIMEOUT = 5.0


async def measure(
    peer: Child | Server,
    works: list[Work],
    begin: Callable[[Work], None],
    end: Callable[[Result], None],
) -> list[Result]:
    """Measure one work after another; `begin` and `end` are called for each.

    Raises
    ------
    PeerError
        When the serving side refuses or has gone, or this one has not the memory asked for.
    TransferError
        When the transfers fail.
    """
    results = []
    # The connector first: what is wrong with this side is better said than the other's.
    async with nc.Connector("bench") as connector, peer.connected() as lines:
        listening = asyncio.create_task(lines.listen())
        try:
            for work in works:
                begin(work)
                results.append(await _measure(lines, connector, work))
                end(results[-1])
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await listening
    return results


async def _measure(lines: Lines, connector: nc.Connector, work: Work) -> Result:
    slots = range(work.in_flight)
    await lines.ask(
        what="prepare",
        version=nc.__version__,
        size=work.size,
        slots=work.in_flight,
        kind=work.kind,
    )
    targets = [nc.Descriptor(allocate(work.kind, work.size)) for _ in slots]

    async def read(slot: int) -> None:
        offer = await lines.ask(what="offer", slot=slot)
        await asyncio.gather(
            fetch(nc.RdmaMetadata.model_validate(offer), targets[slot]),
            lines.ask(what="ended", slot=slot),
        )

    async def fetch(metadata: nc.RdmaMetadata, target: nc.Descriptor) -> None:
        try:
            async with connector.begin_read(metadata, target, timeout=TIMEOUT) as operation:
                await operation.wait_for_completion()
        except nc.TransferError:
            # A serving side that has gone took its offers with it, which may be heard of first.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(lines.ask(what="are you there"), _ANSWER_TIMEOUT)
            raise

    async def run(seconds: float, least: int) -> tuple[float, list[float]]:
        times: list[float] = []
        began = time.perf_counter()

        async def client(slot: int) -> None:
            for i in itertools.count():
                start = time.perf_counter()
                if i >= least and start - began > seconds:
                    return
                await read(slot)
                times.append(time.perf_counter() - start)

        await asyncio.gather(*[client(slot) for slot in slots])
        return time.perf_counter() - began, times

    await run(work.seconds / 10, 2)
    elapsed, times = await run(work.seconds, 2)
    return Result(work, elapsed, sorted(times))
