"""What ``nixl-connect bench`` measures: whole reads from another process, here or elsewhere.

The measuring side asks over TCP, in JSON lines, and reads; the serving side offers. One read is
all of it: ask, register and offer, metadata back, register and read, both ends seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nixl_connect as nc

__all__ = [
    "Child",
    "PeerError",
    "Result",
    "Server",
    "Work",
    "measure",
    "parse_counts",
    "parse_sizes",
    "plot",
    "serve",
    "size_text",
]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MOST_BYTES = 16 << 30
_LIMIT = 1 << 26
_PATIENCE = 60.0
_PATIENCE_TO_CONNECT = 10.0


class PeerError(RuntimeError):
    """The serving side is not there, cannot do what is asked, or has gone."""


@dataclass(frozen=True)
class Work:
    """What is measured."""

    size: int
    """Bytes of each read."""
    in_flight: int
    seconds: float
    kind: str
    """``"cpu"`` or ``"cuda:N"``."""

    @property
    def title(self) -> str:
        return f"{size_text(self.size)}, {self.in_flight} in flight"


@dataclass
class Result:
    """What came of it."""

    work: Work
    elapsed: float
    """Seconds of all reads together."""
    times: list[float] = field(repr=False)
    """Seconds of each read, in ascending order."""

    @property
    def p50(self) -> float:
        return self.times[len(self.times) // 2]

    @property
    def p99(self) -> float:
        return self.times[int(len(self.times) * 0.99)]

    @property
    def rate(self) -> float:
        """Reads per second."""
        return len(self.times) / self.elapsed

    def figures(self) -> dict[str, float | int | str]:
        return {
            "size": self.work.size,
            "in_flight": self.work.in_flight,
            "kind": self.work.kind,
            "reads": len(self.times),
            "p50_us": round(self.p50 * 1e6, 1),
            "p99_us": round(self.p99 * 1e6, 1),
            "reads_per_second": round(self.rate, 1),
            "gigabytes_per_second": round(self.rate * self.work.size / 1e9, 3),
        }


def parse_sizes(text: str) -> list[int]:
    """``"4K,1M"`` in bytes. Raises `ValueError` that says what was expected."""
    sizes = []
    for part in text.split(","):
        number = part.strip().upper().removesuffix("B").removesuffix("I")
        unit = number[-1:] if number[-1:] in _UNITS else ""
        digits = number.removesuffix(unit)
        if not digits.isdecimal() or not 0 < int(digits) * _UNITS[unit] <= _MOST_BYTES:
            raise ValueError(f"sizes: expected 1 to 16G, such as 4K or 64M, got {part!r}")
        sizes.append(int(digits) * _UNITS[unit])
    return sizes


def parse_counts(text: str) -> list[int]:
    """``"1,16"``. Raises `ValueError` that says what was expected."""
    counts = []
    for part in text.split(","):
        if not part.strip().isdecimal() or not 1 <= int(part) <= 4096:
            raise ValueError(f"in-flight: expected numbers from 1 to 4096, got {part!r}")
        counts.append(int(part))
    return counts


def size_text(size: int) -> str:
    for unit in ("G", "M", "K"):
        if size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]} {unit}iB"
    return f"{size} B"


class Server:
    """`serve` on a host."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[_Lines]:
        try:
            connecting = asyncio.open_connection(self.host, self.port, limit=_LIMIT)
            reader, writer = await asyncio.wait_for(connecting, _PATIENCE_TO_CONNECT)
        except (OSError, asyncio.TimeoutError) as error:
            raise PeerError(
                f"{self.host} cannot be reached at port {self.port} ({_why(error)}): "
                "does `nixl-connect bench serve --host ADDRESS` run there, with an address that "
                "leads here?"
            ) from error
        try:
            yield _Lines(reader, writer)
        finally:
            writer.close()


def _why(error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number is not None and number > 0:
        return os.strerror(number)
    if isinstance(error, asyncio.TimeoutError):
        return f"no answer in {_PATIENCE_TO_CONNECT:g} s, as behind a firewall"
    return str(getattr(error, "strerror", None) or error)


class Child:
    """`serve` in a process of its own, which ends with this."""

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[_Lines]:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            # A terminal's Ctrl-C is for all of its processes; this one goes with its parent.
            "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"
            "import asyncio; from nixl_connect import benchmark;"
            "asyncio.run(benchmark.serve('127.0.0.1', 0))",
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdout is not None
        try:
            line = await child.stdout.readline()
            if not line:
                raise PeerError(f"the serving process ended with status {await child.wait()}")
            async with Server("127.0.0.1", int(line.split()[-1])).connected() as lines:
                yield lines
        finally:
            if child.returncode is None:
                child.terminate()
            await child.wait()


class _Lines:
    """JSON lines to and from the other side; answers find their questions by number."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._gone = False

    async def ask(self, **question: Any) -> Any:
        if self._gone:
            raise PeerError("the serving side has gone")
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._writer.write(json.dumps({"number": number, **question}).encode() + b"\n")
        return await answer

    async def listen(self) -> None:
        """Until the other side has gone: then all that wait get an error."""
        try:
            while line := await self._reader.readline():
                answer = json.loads(line)
                future = self._answers.pop(answer["number"])
                if future.done():
                    continue
                if "error" in answer:
                    future.set_exception(PeerError(answer["error"]))
                else:
                    future.set_result(answer.get("value"))
        finally:
            self._gone = True
            for future in self._answers.values():
                if not future.done():
                    future.set_exception(PeerError("the serving side has gone"))


def _memory(kind: str, size: int) -> Any:
    device = nc.Device(kind)
    if device.kind is nc.DeviceKind.HOST:
        return bytearray(size)
    try:
        import torch
    except ImportError:
        raise PeerError(f"kind: {kind!r} needs torch, which is not installed") from None
    if not torch.cuda.is_available():
        raise PeerError(f"kind: torch finds no CUDA device for {kind!r}")
    try:
        return torch.zeros(size, dtype=torch.uint8, device=str(device))
    except RuntimeError as error:
        raise PeerError(f"kind: no {size_text(size)} of {kind!r}: {error}") from error


async def measure(
    peer: Child | Server,
    works: list[Work],
    begin: Callable[[Work], None],
    end: Callable[[Result], None],
) -> list[Result]:
    """Measure each work in turn; `begin` and `end` are told of each.

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


async def _measure(lines: _Lines, connector: nc.Connector, work: Work) -> Result:
    slots = range(work.in_flight)
    await lines.ask(
        what="prepare",
        version=nc.__version__,
        size=work.size,
        slots=work.in_flight,
        kind=work.kind,
    )
    targets = [nc.Descriptor(_memory(work.kind, work.size)) for _ in slots]

    async def read(slot: int) -> None:
        offer = await lines.ask(what="offer", slot=slot)
        await asyncio.gather(
            fetch(nc.RdmaMetadata.model_validate(offer), targets[slot]),
            lines.ask(what="ended", slot=slot),
        )

    async def fetch(metadata: nc.RdmaMetadata, target: nc.Descriptor) -> None:
        async with connector.begin_read(metadata, target, timeout=_PATIENCE) as operation:
            await operation.wait_for_completion()

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


async def serve(host: str, port: int) -> None:
    """Offer memory to whoever asks at the port, until cancelled.

    Prints where it listens, how to get there, and who comes and goes.

    Raises `OSError` when the address cannot be listened on.
    """
    writers: set[asyncio.StreamWriter] = set()
    clients: set[asyncio.Task[Any]] = set()
    async with nc.Connector("bench") as connector:

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            clients.add(task)
            writers.add(writer)
            who = writer.get_extra_info("peername")[0]
            print(f"{who} has come", flush=True)
            try:
                await _Service(connector, writer).answer_all(reader)
                print(f"{who} has gone", flush=True)
            except ValueError:
                print(f"{who} is no `nixl-connect bench connect`: hung up", flush=True)
            # Streams before Python 3.12 take a task that is cancelled for a mistake.
            except (OSError, asyncio.CancelledError):
                print(f"{who} has gone", flush=True)
            finally:
                writer.close()
                writers.discard(writer)
                clients.discard(task)

        server = await asyncio.start_server(client, host, port, limit=_LIMIT)
        address, port = server.sockets[0].getsockname()[:2]
        print(f"serving at {address} port {port}", flush=True)
        print(*_directions(address, port), sep="\n", flush=True)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            # Not `serve_forever`, which waits for its clients to go.
            server.close()
            for writer in writers:
                writer.transport.abort()
            await asyncio.gather(*clients)


def _directions(address: str, port: int) -> Iterator[str]:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.is_loopback:
        yield "for other hosts: --host, and an address of this one that leads there, or 0.0.0.0"
        return
    there = socket.gethostname() if ip.is_unspecified else address
    yield f"from another host: nixl-connect bench connect {there} --port {port}"
    yield "UCX takes ports of its own beside this one: a firewall must let them all through"


class _Service:
    """What one measuring side asks for."""

    def __init__(self, connector: nc.Connector, writer: asyncio.StreamWriter) -> None:
        self._connector = connector
        self._writer = writer
        self._sources: list[nc.Descriptor] = []
        self._offers: dict[int, nc.ReadableOperation] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def answer_all(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                question = json.loads(line)
                if not isinstance(question, dict) or "number" not in question:
                    raise ValueError("expected a question")
                task = asyncio.create_task(self._answer(question))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            for task in self._tasks:
                task.cancel()
            for offer in self._offers.values():
                offer.cancel()

    async def _answer(self, question: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"number": question["number"]}
        try:
            answer["value"] = await self._do(question)
        except Exception as error:
            answer["error"] = f"the serving side: {type(error).__name__}: {error}"
        self._writer.write(json.dumps(answer).encode() + b"\n")

    async def _do(self, question: dict[str, Any]) -> Any:
        if question["what"] == "prepare":
            if (version := question.get("version")) != nc.__version__:
                raise ValueError(
                    f"expected version {nc.__version__} of nixl_connect, which is installed here, "
                    f"got {version}"
                )
            size, slots = int(question["size"]), int(question["slots"])
            if not 0 < size * slots <= _MOST_BYTES:
                raise ValueError(f"size: expected 16 GiB at most for all slots, got {size * slots}")
            kind = question["kind"]
            self._sources = [nc.Descriptor(_memory(kind, size)) for _ in range(slots)]
            return None
        slot = int(question["slot"])
        if question["what"] == "offer":
            source = self._sources[slot]
            offer = await self._connector.create_readable(source, timeout=_PATIENCE)
            self._offers[slot] = offer
            return offer.metadata().model_dump()
        await self._offers[slot].wait_for_completion()
        return None


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
