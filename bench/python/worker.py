"""One backend's measurement: an owner and a mover, in two processes.

They talk JSON lines over the mover's standard input and output. One operation is all of it: the
owner registers and offers, sends the message, the mover registers, reads, and says that it is
done; the owner sees its own completion too, and both let go. Bytes are checked outside the timing.
Prints one line of JSON: the time of each operation, of all, and the processor time of both sides,
in seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import mmap
import os
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

os.environ.setdefault("UCX_NET_DEVICES", "lo")

import numpy as np
from backends.memory import Buffer, fill, holds, on_device

HUGE = 2 << 20


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def allocate(
    options: argparse.Namespace, device: str | None, value: Callable[[int], int]
) -> list[Buffer]:
    """A buffer for each slot; for every library on the same kind of pages."""
    if device is not None:
        return [on_device(options.size, value(slot), device) for slot in range(options.in_flight)]
    buffers = []
    for slot in range(options.in_flight):
        length = -(-options.size // HUGE) * HUGE
        memory = mmap.mmap(-1, length + HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        whole = np.frombuffer(memory, dtype=np.uint8)
        start = -whole.ctypes.data % HUGE
        # 15 is MADV_NOHUGEPAGE, for which Python has no name before 3.13.
        memory.madvise(mmap.MADV_HUGEPAGE if options.huge else 15)
        buffers.append(whole[start : start + options.size])
        buffers[-1][:] = value(slot)
    return buffers


def full(options: argparse.Namespace) -> list[Buffer]:
    return allocate(options, options.device, lambda slot: slot % 251)


def empty(options: argparse.Namespace) -> list[Buffer]:
    return allocate(options, options.mover_device, lambda slot: 255)


def are_right(buffers: list[Buffer]) -> bool:
    return all(holds(buffer, slot % 251) for slot, buffer in enumerate(buffers))


def report(buffers: list[Buffer]) -> dict[str, Any]:
    used = cpu_seconds()
    right = are_right(buffers)
    for buffer in buffers:
        fill(buffer, 255)
    return {"right": right, "cpu": used, "cpu_of_next": cpu_seconds()}


def summary(
    times: list[float], elapsed: float, cpu: float, before: dict[str, Any], after: dict[str, Any]
) -> dict[str, Any]:
    return {
        "times": times,
        "elapsed": elapsed,
        "cpu": cpu + after["cpu"] - before["cpu_of_next"],
        "right": before["right"] and after["right"],
    }


def mover_command() -> list[str]:
    return [sys.executable, *sys.argv, "--mover"]


# Libraries with coroutines.


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


async def asyncio_mover(backend: Any, buffers: list[Buffer]) -> None:
    lines = await standard_lines()
    hello = await lines.receive()
    side = await backend.Mover.start(buffers, hello)
    tasks = set()

    async def fetch(message: dict[str, Any]) -> None:
        await side.fetch(message["slot"], message["message"])
        lines.send({"slot": message["slot"]})

    def ended(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if (error := task.exception()) is not None:
            traceback.print_exception(error)
            os._exit(1)

    while (message := await lines.receive()) is not None:
        if "check" in message:
            lines.send(report(buffers))
            continue
        task = asyncio.create_task(fetch(message))
        tasks.add(task)
        task.add_done_callback(ended)
    await side.close()


async def asyncio_owner(
    backend: Any, buffers: list[Buffer], options: argparse.Namespace
) -> dict[str, Any]:
    side = await backend.Owner.start(buffers)
    child = await asyncio.create_subprocess_exec(
        *mover_command(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 26,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    lines = Lines(child.stdout, child.stdin)
    lines.send(side.hello)
    done: dict[int, asyncio.Future[None]] = {}
    checks: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def listen() -> None:
        while (message := await lines.receive()) is not None:
            if "right" in message:
                checks.put_nowait(message)
            else:
                done.pop(message["slot"]).set_result(None)
        if any(not future.done() for future in done.values()):
            os._exit(1)  # the mover has gone, and has said why

    listening = asyncio.create_task(listen())
    loop = asyncio.get_running_loop()

    async def operate(slot: int) -> float:
        began = time.perf_counter()
        offer = await side.offer(slot)
        done[slot] = loop.create_future()
        lines.send({"slot": slot, "message": offer.message})
        await done[slot]
        await offer.ended()
        offer.release()
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
    child.stdin.close()
    await side.close()
    await listening
    await child.wait()
    return summary(times, elapsed, cpu, before, after)


# Libraries that are polled.


class Polled:
    """JSON lines, read without waiting."""

    def __init__(self, reader: int, writer: int) -> None:
        os.set_blocking(reader, False)
        self.reader = reader
        self.writer = writer
        self.partial = b""
        self.closed = False

    def send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self.writer, data) :]

    def receive(self) -> list[dict[str, Any]]:
        try:
            data = os.read(self.reader, 1 << 18)
        except BlockingIOError:
            # What the library runs beside us may need this processor.
            os.sched_yield()
            return []
        self.closed = not data
        *lines, self.partial = (self.partial + data).split(b"\n")
        return [json.loads(line) for line in lines]


def spin_mover(backend: Any, buffers: list[Buffer]) -> None:
    lines = Polled(0, os.dup(1))
    os.dup2(2, 1)  # what libraries print is no line of ours
    side = None
    while not lines.closed:
        for message in lines.receive():
            if side is None:
                side = backend.Mover(buffers, message)
            elif "check" in message:
                lines.send(report(buffers))
            else:
                side.begin(message["slot"], message["message"])
        if side is not None:
            for slot in side.poll():
                lines.send({"slot": slot})
    if side is not None:
        side.close()


def spin_owner(backend: Any, buffers: list[Buffer], options: argparse.Namespace) -> dict[str, Any]:
    side = backend.Owner(buffers)
    child = subprocess.Popen(mover_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdin is not None
    lines = Polled(child.stdout.fileno(), child.stdin.fileno())
    lines.send(side.hello)
    ends = 2 if backend.NOTIFIES else 1
    checks: list[dict[str, Any]] = []

    def look() -> list[int]:
        slots = []
        for message in lines.receive():
            if "right" in message:
                checks.append(message)
            else:
                slots.append(message["slot"])
        if lines.closed:
            raise RuntimeError("the mover has gone")
        return slots + side.poll()

    def run(operations: int) -> list[float]:
        times: list[float] = []
        began: dict[int, float] = {}
        missing: dict[int, int] = {}
        left = operations

        def begin(slot: int) -> None:
            nonlocal left
            if left == 0:
                return
            left -= 1
            began[slot] = time.perf_counter()
            missing[slot] = ends
            lines.send({"slot": slot, "message": side.offer(slot)})

        for slot in range(options.in_flight):
            begin(slot)
        while len(times) < operations:
            for slot in look():
                missing[slot] -= 1
                if missing[slot] == 0:
                    side.release(slot)
                    times.append(time.perf_counter() - began[slot])
                    begin(slot)
        return times

    def check() -> dict[str, Any]:
        lines.send({"check": True})
        while not checks:
            look()
        return checks.pop()

    run(options.warm_up)
    before = check()
    cpu = cpu_seconds()
    start = time.perf_counter()
    times = run(options.operations)
    elapsed = time.perf_counter() - start
    cpu = cpu_seconds() - cpu
    after = check()
    child.stdin.close()
    child.wait()
    side.close()
    return summary(times, elapsed, cpu, before, after)


def local(backend: Any, source: list[Buffer], options: argparse.Namespace) -> dict[str, Any]:
    target = empty(options)

    def run(operations: int) -> list[float]:
        times = []
        for i in range(operations):
            slot = i % options.in_flight
            began = time.perf_counter()
            backend.copy(source[slot], target[slot])
            times.append(time.perf_counter() - began)
        return times

    run(options.warm_up)
    cpu = cpu_seconds()
    times = run(options.operations)
    used = {"cpu": cpu_seconds() - cpu, "right": are_right(target)}
    return summary(times, sum(times), 0.0, {"cpu_of_next": 0.0, "right": True}, used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", required=True, help="a module in backends/")
    parser.add_argument("--library", help="for dynamo_api: the module with that API")
    parser.add_argument("--wire", action="store_true", help="for nixl_connect: metadata as bytes")
    parser.add_argument("--engines", type=int, help="for nixl_connect: its option")
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--operations", type=int, default=1000)
    parser.add_argument("--warm-up", type=int, default=100)
    parser.add_argument("--huge", action="store_true", help="buffers on huge pages")
    parser.add_argument("--device", help="the owner's; else NumPy's arrays")
    parser.add_argument("--mover-device", help="the mover's, when it is another one")
    parser.add_argument("--mover", action="store_true")
    options = parser.parse_args()
    options.mover_device = options.mover_device or options.device
    # Before the backend is imported: which of the kernel's free pages are next is another thing
    # after an import of torch, and 64 MiB then take 15 % less to copy.
    buffers = empty(options) if options.mover else full(options)
    backend = importlib.import_module(f"backends.{options.backend}")
    if options.library:
        engines = {"engines": options.engines} if options.engines else {}
        backend.configure(options.library, options.wire, **engines)
    run: Callable[..., Any] = asyncio.run
    if options.uvloop:
        import uvloop

        run = uvloop.run

    result = None
    if backend.STYLE == "local":
        result = local(backend, buffers, options)
    elif backend.STYLE == "spin" and options.mover:
        spin_mover(backend, buffers)
    elif backend.STYLE == "spin":
        result = spin_owner(backend, buffers, options)
    elif options.mover:
        run(asyncio_mover(backend, buffers))
    else:
        result = run(asyncio_owner(backend, buffers, options))
    if result is not None:
        # Nothing is moved there.
        result["right"] = result["right"] or options.library == "backends.null"
        print(json.dumps(result), flush=True)
    # Bare NIXL crashes when a process exits on hosts that have libefa.
    os._exit(0)


if __name__ == "__main__":
    main()
