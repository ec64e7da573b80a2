"""The serving side of ``nixl-connect bench``: offers memory to those who measure."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections.abc import Iterator
from typing import Any

import nixl_connect as nc

from ._process import take_standard_output
from .bench_work import LONGEST_LINE, MOST_BYTES, TIMEOUT, allocate

__all__ = ["main", "serve"]


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

        server = await asyncio.start_server(client, host, port, limit=LONGEST_LINE)
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
        if question["what"] == "are you there":
            return None
        if question["what"] == "prepare":
            if (version := question.get("version")) != nc.__version__:
                raise ValueError(
                    f"expected version {nc.__version__} of nixl_connect, which is installed here, "
                    f"got {version}"
                )
            size, slots = int(question["size"]), int(question["slots"])
            if not 0 < size * slots <= MOST_BYTES:
                raise ValueError(f"size: expected 16 GiB at most for all slots, got {size * slots}")
            kind = question["kind"]
            self._sources = [nc.Descriptor(allocate(kind, size)) for _ in range(slots)]
            return None
        slot = int(question["slot"])
        if question["what"] == "offer":
            source = self._sources[slot]
            offer = await self._connector.create_readable(source, timeout=TIMEOUT)
            self._offers[slot] = offer
            return offer.metadata().model_dump()
        await self._offers[slot].wait_for_completion()
        return None


def main() -> None:
    """Serve who has started this process, which reads from standard output where that is."""
    take_standard_output()
    asyncio.run(serve("127.0.0.1", 0))
