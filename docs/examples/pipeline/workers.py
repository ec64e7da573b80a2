"""The workers: encode, prefill and decode. Each is one process, with one connector.

``python workers.py --router SOCKET --role prefill --name prefill-2`` adds one to a running
router; it ends with the router.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

# UCX takes every network interface that it finds; this demonstration stays on this machine.
os.environ.setdefault("UCX_NET_DEVICES", "lo")

import model
import nixl_connect as nc
import torch
from messages import Channel

TIMEOUT = 20.0  # seconds that any operation may take

Result = TypeVar("Result")


class Worker:
    """What all have: a connector, a thread for the model, and for ``--kill`` a way to die."""

    def __init__(self, name: str, dies_at: int = 0) -> None:
        torch.set_num_threads(1)
        self.connector = nc.Connector(name, default_timeout=TIMEOUT)
        self._model_thread = ThreadPoolExecutor(1)
        self._requests = 0
        self._dies_at = dies_at

    async def compute(self, function: Callable[..., Result], *arguments: Any) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._model_thread, function, *arguments)

    def in_the_middle(self) -> None:
        self._requests += 1
        if self._requests == self._dies_at:
            os.kill(os.getpid(), signal.SIGKILL)


class EncodeWorker(Worker):
    """Makes embeddings, and offers them for whichever prefill worker will read them."""

    def __init__(self, name: str, kind: str, dies_at: int = 0) -> None:
        super().__init__(name, dies_at)
        self._kind = kind
        self._model = model.vision_encoder(kind)
        self._offers: set[asyncio.Task[None]] = set()

    async def encode(self, seed: int) -> dict[str, Any]:
        embeddings = await self.compute(self._embed, seed)
        readable = await self.connector.create_readable(nc.Descriptor(embeddings))
        self.in_the_middle()
        offer = asyncio.create_task(self._hold(readable))
        self._offers.add(offer)
        offer.add_done_callback(self._offers.discard)
        return {"metadata": readable.metadata().model_dump(), "shape": list(embeddings.shape)}

    @torch.inference_mode()
    def _embed(self, seed: int) -> torch.Tensor:
        embeddings: torch.Tensor = self._model(model.draw(self._kind, seed))
        return embeddings

    async def _hold(self, readable: nc.ReadableOperation) -> None:
        # An offer that nobody reads, as when its request failed elsewhere, ends by its deadline.
        with suppress(nc.TransferError):
            async with readable:
                await readable.wait_for_completion()


class PrefillWorker(Worker):
    """Reads embeddings, computes the KV cache and writes it to the decode worker."""

    def __init__(self, name: str, dies_at: int = 0) -> None:
        super().__init__(name, dies_at)
        self._model = model.language_model()

    async def prefill(
        self, embeddings: list[dict[str, Any]], prompt: list[int], cache: dict[str, Any]
    ) -> None:
        here = await asyncio.gather(*[self._read(**offer) for offer in embeddings])
        length = sum(map(len, here)) + len(prompt)
        local = model.new_cache(length)
        logits = await self.compute(self._model.prefill, here, prompt, local)
        remote = nc.RdmaMetadata.model_validate(cache)
        async with self.connector.begin_write(pieces(local, length, logits), remote) as write:
            self.in_the_middle()
            await write.wait_for_completion()

    async def _read(self, metadata: dict[str, Any], shape: list[int]) -> torch.Tensor:
        embeddings = torch.empty(shape)
        remote = nc.RdmaMetadata.model_validate(metadata)
        async with self.connector.begin_read(remote, nc.Descriptor(embeddings)) as read:
            await read.wait_for_completion()
        return embeddings


@dataclass
class Reservation:
    writable: nc.WritableOperation
    cache: torch.Tensor
    logits: torch.Tensor
    length: int
    count: int


class CachePool:
    """KV caches that are used again, when nobody can write to them any more."""

    STEP = 64  # positions

    def __init__(self) -> None:
        self._free: dict[int, list[torch.Tensor]] = {}
        self._returning: set[asyncio.Task[None]] = set()

    def take(self, positions: int) -> torch.Tensor:
        positions = -(-positions // self.STEP) * self.STEP
        free = self._free.setdefault(positions, [])
        return free.pop() if free else model.new_cache(positions)

    def give_back(self, reserved: Reservation) -> None:
        returning = asyncio.create_task(self._give_back(reserved))
        self._returning.add(returning)
        returning.add_done_callback(self._returning.discard)

    async def _give_back(self, reserved: Reservation) -> None:
        # An operation that was cancelled has ended, and a late write may still come.
        await reserved.writable.wait_for_release()
        self._free[reserved.cache.shape[2]].append(reserved.cache)


class DecodeWorker(Worker):
    """Sets memory apart for a KV cache, and goes on from it when it has been written."""

    def __init__(self, name: str, dies_at: int = 0) -> None:
        super().__init__(name, dies_at)
        self._model = model.language_model()
        self._pool = CachePool()
        self._reservations: dict[str, Reservation] = {}

    # The decode worker offers and prefill writes, not the other way: memory for a cache is
    # found before anything is computed, and the prefill worker, the busiest, has its own back
    # as soon as the write has ended, however long the decode worker's queue is.
    async def reserve(self, length: int, count: int) -> dict[str, Any]:
        cache, logits = self._pool.take(length + count), torch.empty(model.VOCABULARY)
        writable = await self.connector.create_writable(pieces(cache, length, logits))
        metadata = writable.metadata()
        reservation = Reservation(writable, cache, logits, length, count)
        self._reservations[metadata.notification_key] = reservation
        return metadata.model_dump()

    async def generate(self, key: str) -> dict[str, Any]:
        reserved = self._reservations.pop(key)
        try:
            async with reserved.writable as writable:
                await writable.wait_for_completion()
            self.in_the_middle()
            tokens, logits = await self.compute(
                self._model.decode, reserved.logits, reserved.cache, reserved.length, reserved.count
            )
        finally:
            self._pool.give_back(reserved)
        return {"tokens": tokens, "logits": logits.tolist()}

    async def release(self, key: str) -> None:
        """Give a reservation up. A late write does no harm: the pool waits until it cannot be."""
        if (reserved := self._reservations.pop(key, None)) is not None:
            reserved.writable.cancel()
            self._pool.give_back(reserved)


def pieces(cache: torch.Tensor, length: int, logits: torch.Tensor) -> nc.DescriptorList:
    """Keys and values of `length` positions in each layer, and the logits: moved as one."""
    parts = [part[:length] for layer in cache for part in layer] + [logits]
    return nc.DescriptorList(
        array("Q", [part.data_ptr() for part in parts]),
        array("Q", [part.nbytes for part in parts]),
        owner=parts,
    )


ROLES: dict[str, Callable[..., Worker]] = {
    "image": lambda name, dies_at=0: EncodeWorker(name, "image", dies_at),
    "video": lambda name, dies_at=0: EncodeWorker(name, "video", dies_at),
    "prefill": PrefillWorker,
    "decode": DecodeWorker,
}


async def serve(router: str, role: str, name: str, dies_at: int) -> None:
    worker = ROLES[role](name, dies_at)
    async with worker.connector:
        channel = await Channel.connect(router, worker)
        running = asyncio.create_task(channel.run())
        await channel.call("join", role=role, name=name)
        await running


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--router", required=True, help="the router's socket")
    parser.add_argument("--role", required=True, choices=ROLES)
    parser.add_argument("--name", required=True)
    parser.add_argument("--dies-at", type=int, default=0, help="the request to die in")
    parser.add_argument("--metrics-port", type=int, help="where to expose figures for Prometheus")
    options = parser.parse_args(arguments)
    if options.metrics_port:
        # The connector is made afterwards, and found by itself.
        from nixl_connect.metrics import ConnectorCollector
        from prometheus_client import REGISTRY, start_http_server

        REGISTRY.register(ConnectorCollector())
        start_http_server(options.metrics_port, "127.0.0.1")
    asyncio.run(serve(options.router, options.role, options.name, options.dies_at))


if __name__ == "__main__":
    main()
