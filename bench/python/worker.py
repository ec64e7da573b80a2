"""One side of a measurement, in a process of its own, for libraries with Dynamo's API.

The owner offers; the mover reads. They talk JSON lines over the mover's standard input and
output, which the owner holds. One operation is all of it: the owner registers and offers,
sends the metadata, the mover registers, reads, and says that it is done; the owner sees its
own completion too. Bytes are checked outside the timing.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import resource
import sys
import time
from typing import Any

os.environ.setdefault("UCX_NET_DEVICES", "lo")

import numpy as np


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Lines:
    """JSON lines between the two processes."""

    def __init__(self, reader: asyncio.StreamReader, writer: Any) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, message: dict[str, Any]) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        line = await self.reader.readline()
        return json.loads(line) if line else None


async def standard_lines() -> Lines:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 26)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(), sys.stdout
    )
    return Lines(reader, asyncio.StreamWriter(transport, protocol, None, loop))


async def mover(options: argparse.Namespace) -> None:
    library = importlib.import_module(options.library)
    connector = library.Connector("mover")
    lines = await standard_lines()
    buffers = [np.zeros(options.size, dtype=np.uint8) for _ in range(options.in_flight)]
    descriptors = [library.Descriptor((buffer, "cpu")) for buffer in buffers]
    tasks = set()

    async def read(message: dict[str, Any]) -> None:
        slot = message["slot"]
        metadata = library.RdmaMetadata.model_validate(message["metadata"])
        operation = await connector.begin_read(metadata, descriptors[slot])
        with operation:
            await operation.wait_for_completion()
        lines.send({"slot": slot})

    while (message := await lines.receive()) is not None:
        if "check" in message:
            right = all(bool((buffer == i % 251).all()) for i, buffer in enumerate(buffers))
            lines.send({"right": right, "cpu": cpu_seconds()})
            for buffer in buffers:
                buffer[:] = 0
            continue
        task = asyncio.create_task(read(message))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def owner(options: argparse.Namespace) -> dict[str, Any]:
    library = importlib.import_module(options.library)
    connector = library.Connector("owner")
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *sys.argv,
        "--mover",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 26,
    )
    assert child.stdout is not None
    lines = Lines(child.stdout, child.stdin)
    buffers = [np.full(options.size, i % 251, dtype=np.uint8) for i in range(options.in_flight)]
    descriptors = [library.Descriptor((buffer, "cpu")) for buffer in buffers]
    done: dict[int, asyncio.Future[None]] = {}
    checks: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def listen() -> None:
        while (message := await lines.receive()) is not None:
            if "right" in message:
                checks.put_nowait(message)
            else:
                done.pop(message["slot"]).set_result(None)

    listening = asyncio.create_task(listen())
    loop = asyncio.get_running_loop()

    async def operate(slot: int) -> float:
        began = time.perf_counter()
        operation = await connector.create_readable(descriptors[slot])
        with operation:
            done[slot] = loop.create_future()
            lines.send({"slot": slot, "metadata": operation.metadata().model_dump()})
            await done[slot]
            await operation.wait_for_completion()
        return time.perf_counter() - began

    async def run(operations: int) -> list[float]:
        remaining = iter(range(operations))
        times: list[float] = []

        async def client(slot: int) -> None:
            for _ in remaining:
                times.append(await operate(slot))

        await asyncio.gather(*[client(slot) for slot in range(options.in_flight)])
        return times

    async def check() -> dict[str, Any]:
        lines.send({"check": True})
        return await checks.get()

    await run(options.warm_up)
    before = await check()
    cpu = cpu_seconds()
    began = time.perf_counter()
    times = await run(options.operations)
    elapsed = time.perf_counter() - began
    cpu = cpu_seconds() - cpu
    after = await check()
    assert child.stdin is not None
    child.stdin.close()
    await listening
    await child.wait()
    return {
        "times": times,
        "elapsed": elapsed,
        "cpu": cpu + after["cpu"] - before["cpu"],
        "right": options.library == "null_backend" or (before["right"] and after["right"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True)
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--operations", type=int, default=1000)
    parser.add_argument("--warm-up", type=int, default=100)
    parser.add_argument("--mover", action="store_true")
    options = parser.parse_args()
    run = asyncio.run
    if options.uvloop:
        import uvloop

        run = uvloop.run
    if options.mover:
        run(mover(options))
    else:
        print(json.dumps(run(owner(options))))


if __name__ == "__main__":
    main()
