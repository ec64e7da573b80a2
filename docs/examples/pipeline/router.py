"""The router: sends each request through the least busy workers, and again if one fails.

``python router.py --socket PATH`` waits there for workers and clients.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from messages import LIMIT, Channel, PeerFailedError, PeerLostError

ATTEMPTS = 8
PATIENCE = 30.0  # seconds for a worker's reply; its transfers have a deadline below that


@dataclass
class Worker:
    """What the router knows of one."""

    role: str
    name: str
    send: Callable[..., Awaitable[Any]] = field(repr=False)
    requests: int = 0
    in_flight: int = 0
    failures: int = 0
    late: int = 0
    """How many calls in a row it has not answered in time."""
    lost: bool = False

    async def call(self, method: str, **arguments: Any) -> Any:
        try:
            answer = await asyncio.wait_for(self.send(method, **arguments), PATIENCE)
        except PeerFailedError as error:
            self.failures += 1
            raise PeerFailedError(f"{self.name}: {error}") from None
        except asyncio.TimeoutError:
            # Stopped, or only slow on a busy host: the others are asked first from now on.
            self.failures += 1
            self.late += 1
            raise PeerFailedError(f"{self.name} has not answered in {PATIENCE:g} s") from None
        except PeerLostError:
            self.failures += 1
            self.lost = True
            raise PeerLostError(f"{self.name} is gone") from None
        self.late = 0
        return answer


class Router:
    """Knows its workers by what they are asked; how they are reached it does not care."""

    def __init__(self) -> None:
        self._workers: dict[str, list[Worker]] = defaultdict(list)
        self._joined = asyncio.Condition()

    async def join(self, role: str, name: str, send: Callable[..., Awaitable[Any]]) -> Worker:
        worker = Worker(role, name, send)
        self._workers[role].append(worker)
        async with self._joined:
            self._joined.notify_all()
        return worker

    async def wait_for_workers(self, count: int) -> None:
        async with self._joined:
            await self._joined.wait_for(lambda: sum(map(len, self._workers.values())) >= count)

    async def answer(
        self, media: list[dict[str, Any]], prompt: list[int], count: int
    ) -> dict[str, Any]:
        """Tokens, logits, and what went wrong on the way."""
        failures: list[str] = []
        while True:
            try:
                answer = await self._attempt(media, prompt, count)
                return {**answer, "failures": failures}
            except (PeerLostError, PeerFailedError) as error:
                failures.append(str(error))
                if len(failures) == ATTEMPTS:
                    raise

    async def _attempt(
        self, media: list[dict[str, Any]], prompt: list[int], count: int
    ) -> dict[str, Any]:
        embeddings = await asyncio.gather(*[self._encode(**medium) for medium in media])
        length = sum(offer["shape"][0] for offer in embeddings) + len(prompt)
        with self._least_busy("decode") as decode:
            cache = await decode.call("reserve", length=length, count=count)
            key = cache["notification_key"]
            try:
                with self._least_busy("prefill") as prefill:
                    await prefill.call("prefill", embeddings=embeddings, prompt=prompt, cache=cache)
            except BaseException:
                with suppress(PeerLostError, PeerFailedError):
                    await decode.call("release", key=key)
                raise
            answer: dict[str, Any] = await decode.call("generate", key=key)
            return answer

    async def _encode(self, kind: str, seed: int) -> dict[str, Any]:
        with self._least_busy(kind) as encode:
            offer: dict[str, Any] = await encode.call("encode", seed=seed)
            return offer

    @contextmanager
    def _least_busy(self, role: str) -> Iterator[Worker]:
        alive = [worker for worker in self._workers[role] if not worker.lost]
        if not alive:
            raise RuntimeError(f"no {role} worker is left")
        worker = min(alive, key=lambda w: (w.late, w.in_flight, w.requests))
        worker.in_flight += 1
        worker.requests += 1
        try:
            yield worker
        finally:
            worker.in_flight -= 1

    def report(self) -> list[Worker]:
        return [worker for workers in self._workers.values() for worker in workers]


class Session:
    """What a worker or a client may ask of the router, each over its own stream."""

    def __init__(self, router: Router, channel: Channel, stop: asyncio.Event) -> None:
        self.channel = channel
        self.worker: Worker | None = None
        self.answer = router.answer
        self.wait_for_workers = router.wait_for_workers
        self._router = router
        self._stop = stop

    async def join(self, role: str, name: str) -> None:
        self.worker = await self._router.join(role, name, self.channel.call)

    async def report(self) -> list[dict[str, Any]]:
        figures = ("role", "name", "requests", "failures", "lost")
        return [{name: getattr(w, name) for name in figures} for w in self._router.report()]

    async def stop(self) -> None:
        self._stop.set()


async def serve(path: str) -> None:
    router = Router()
    stop = asyncio.Event()
    sessions: dict[asyncio.Task[None] | None, Channel] = {}

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = Channel(reader, writer)
        channel.served = session = Session(router, channel, stop)
        sessions[asyncio.current_task()] = channel
        await channel.run()
        if session.worker is not None:
            session.worker.lost = True

    async with await asyncio.start_unix_server(meet, path, limit=LIMIT):
        await stop.wait()
        for channel in sessions.values():
            channel.close()
        await asyncio.gather(*filter(None, sessions))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--socket", required=True)
    asyncio.run(serve(parser.parse_args(arguments).socket))


if __name__ == "__main__":
    main()
