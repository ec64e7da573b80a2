"""Requests with pictures and films through Dynamo's runtime: encode, prefill and decode workers.

Processes of their own, found by files and called over TCP on this machine, so that no server is
needed; with ``--etcd`` by the servers that Dynamo's environment variables name. Every answer is
compared with that of a single process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "pipeline"))
os.environ.setdefault("DYN_LOG", "error")  # read when its runtime is imported

import model
from dynamo.runtime import Client, DistributedRuntime, dynamo_worker
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
NAMESPACE = "nixl_connect_example"
ROLES = ("image", "video", "prefill", "decode")
TRIES = 20
PAUSE = 0.25  # seconds between two tries
TOKENS = 8
SECONDS = 60.0  # for the workers to come up


class Workers:
    """The worker processes: started, killed, and started again under their names."""

    def __init__(self, originals: list[str], counts: dict[str, int]) -> None:
        self._originals = originals
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for role, count in counts.items():
            for number in range(count):
                self.start(f"{role}-{number}")

    def start(self, name: str) -> None:
        role = name.partition("-")[0]
        replaces = "0" if role in self._originals or "all" in self._originals else "1"
        command = [sys.executable, HERE / "workers.py", "--role", role, "--name", name]
        environment = {**os.environ, "NIXL_CONNECT_REPLACE_DYNAMO": replaces}
        self._running[name] = subprocess.Popen(command, env=environment)

    def kill(self, name: str) -> None:
        self._running[name].kill()
        self._running[name].wait()

    def stop(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()


class Frontend:
    """Has requests answered by the workers, and tries again when one of these is lost."""

    def __init__(self, clients: dict[str, Client]) -> None:
        self._clients = clients
        self.retries = 0

    async def answer(self, media: model.Media, prompt: list[int]) -> tuple[list[int], list[float]]:
        for number in range(TRIES):
            try:
                return await self._try(media, prompt)
            except Exception as error:
                if number == TRIES - 1:
                    raise
                self.retries += 1
                print(f"again, for {type(error).__name__}: {str(error)[:100]}", file=sys.stderr)
                await asyncio.sleep(PAUSE)
        raise AssertionError

    async def _try(self, media: model.Media, prompt: list[int]) -> tuple[list[int], list[float]]:
        streams = [await self._call(item["kind"], seed=item["seed"]) for item in media]
        try:
            firsts = [anext(stream) for stream in streams]
            embeddings = await asyncio.gather(*firsts, return_exceptions=True)
            for offer in embeddings:
                if isinstance(offer, BaseException):
                    raise offer
            length = sum(offer["shape"][0] for offer in embeddings) + len(prompt)
            decoding = await self._call("decode", length=length, count=TOKENS)
            streams.append(decoding)
            cache = (await anext(decoding))["metadata"]
            prefill = await self._call("prefill", embeddings=embeddings, prompt=prompt, cache=cache)
            streams.append(prefill)
            async for _ in prefill:
                pass
            answer = await anext(decoding)
            return answer["tokens"], answer["logits"]
        finally:
            for stream in streams:
                await stream.aclose()

    async def _call(self, role: str, **request: Any) -> Any:
        """The items that one of the workers yields."""

        async def items() -> AsyncIterator[dict[str, Any]]:
            async for item in await self._clients[role].round_robin(request):
                yield item.data()

        return items()


def requests(count: int) -> list[tuple[model.Media, list[int]]]:
    chance = random.Random(5)
    made = []
    for number in range(count):
        kinds = ["video"] if number % 4 == 3 else ["image"] * chance.randint(1, 3)
        media: model.Media = [{"kind": kind, "seed": chance.randrange(1 << 30)} for kind in kinds]
        made.append((media, [chance.randrange(model.VOCABULARY) for _ in range(12)]))
    return made


@dynamo_worker()
async def run(runtime: DistributedRuntime, options: argparse.Namespace) -> None:
    counts = {role: getattr(options, role) for role in ROLES}
    workers = Workers(options.original, counts)
    try:
        clients = {
            role: await runtime.endpoint(f"{NAMESPACE}.{role}.generate").client() for role in ROLES
        }
        deadline = time.monotonic() + SECONDS
        while any(len(clients[role].instance_ids()) < count for role, count in counts.items()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all workers have come up within {SECONDS:.0f} s")
            await asyncio.sleep(0.1)
        frontend = Frontend(clients)
        await asyncio.gather(*[frontend.answer(*it) for it in requests(8)])  # warm
        await measure(frontend, workers, options)
    finally:
        workers.stop()


async def measure(frontend: Frontend, workers: Workers, options: argparse.Namespace) -> None:
    todo = requests(options.requests)
    at_once = asyncio.Semaphore(options.at_once)
    seconds: list[float] = []

    async def one(media: model.Media, prompt: list[int]) -> tuple[list[int], list[float]]:
        async with at_once:
            began = time.perf_counter()
            answer = await frontend.answer(media, prompt)
            seconds.append(time.perf_counter() - began)
        if options.kill and len(seconds) == len(todo) // 2:
            workers.kill(options.kill)
            print(f"{options.kill} was killed, and is started again", flush=True)
            workers.start(options.kill)
        return answer

    began = time.perf_counter()
    answers = await asyncio.gather(*[one(*request) for request in todo])
    total = time.perf_counter() - began

    whole = model.Whole()
    right = 0
    for request, (tokens, logits) in zip(todo, answers, strict=True):
        expected_tokens, expected = whole.answer(*request, TOKENS)
        right += tokens == expected_tokens and logits == expected.tolist()

    which = ", ".join(options.original) or "none"
    table = Table(title=f"Dynamo's own nixl_connect in: {which}")
    for heading in ("requests", "right", "tried again", "p50", "p90", "requests/s"):
        table.add_column(heading, justify="right")
    table.add_row(
        str(len(todo)),
        str(right),
        str(frontend.retries),
        f"{statistics.median(seconds) * 1e3:.0f} ms",
        f"{statistics.quantiles(seconds, n=10)[8] * 1e3:.0f} ms",
        f"{len(todo) / total:.1f}",
    )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=48, help="2 or more")
    parser.add_argument("--at-once", type=int, default=24)
    for role in ROLES:
        parser.add_argument(f"--{role}", type=int, default=2, help="how many of these workers")
    parser.add_argument("--kill", help="a worker to kill in the middle, such as prefill-0")
    parser.add_argument(
        "--original",
        nargs="*",
        default=[],
        choices=[*ROLES, "all"],
        help="the roles that use Dynamo's own nixl_connect",
    )
    parser.add_argument(
        "--etcd", action="store_true", help="find workers by etcd, and call them by NATS"
    )
    options = parser.parse_args()
    if options.requests < 2:
        parser.error("--requests: expected 2 or more")
    with tempfile.TemporaryDirectory() as folder:
        if not options.etcd:
            os.environ.update(
                DYN_DISCOVERY_BACKEND="file",
                DYN_FILE_KV=folder,
                DYN_REQUEST_PLANE="tcp",
                DYN_TCP_RPC_HOST="127.0.0.1",
                DYN_EVENT_PLANE="zmq",
            )
        asyncio.run(run(options))


if __name__ == "__main__":
    main()
