"""UCXX: tag send and receive through its asyncio API.

The worker is progressed in the "blocking" mode, by asyncio on UCX's event descriptor. Workers
meet by their addresses, not by a listener, because UCXX's listener takes no address to bind to
and would be open on every interface. UCXX has no registration: UCX keeps its own cache of it.
An offer starts the send at once, with a tag of its own; a fetch receives that tag.

With error handling on endpoints, which is UCXX's default, UCX leaves shared memory out and goes
over TCP. BENCH_UCXX_ERRORS=0 turns it off, and BENCH_UCXX_PROGRESS picks another mode; over
shared memory both modes were seen to keep a core busy.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import Any

os.environ.setdefault("UCX_NET_DEVICES", "lo")
os.environ.setdefault("UCX_LOG_FILE", "stderr")  # not among the lines on standard output
os.environ.setdefault("UCX_WARN_UNUSED_ENV_VARS", "n")

import numpy as np
import ucxx

STYLE = "asyncio"
PROGRESS = os.environ.get("BENCH_UCXX_PROGRESS", "blocking")
ERRORS = os.environ.get("BENCH_UCXX_ERRORS", "1") != "0"
ADDRESS_TAG = 1
FIRST_TAG = 2
ADDRESS_ROOM = 4096


def worker_address() -> bytes:
    return bytes(memoryview(ucxx.get_worker_address()))


async def endpoint_to(address: bytes) -> Any:
    remote = ucxx.get_ucx_address_from_buffer(address)
    return await ucxx.create_endpoint_from_worker_address(remote, endpoint_error_handling=ERRORS)


class Offer:
    def __init__(self, message: dict[str, Any], sending: asyncio.Task[None]) -> None:
        self.message = message
        self._sending = sending

    async def ended(self) -> None:
        await self._sending

    def release(self) -> None:
        """Nothing was registered."""


class Owner:
    def __init__(self, buffers: list[np.ndarray]) -> None:
        self._buffers = buffers
        self._tags = itertools.count(FIRST_TAG)
        self.hello = {"address": worker_address().hex()}
        self._peer = asyncio.create_task(self._meet())

    @classmethod
    async def start(cls, buffers: list[np.ndarray]) -> Owner:
        ucxx.init(progress_mode=PROGRESS)
        return cls(buffers)

    async def _meet(self) -> Any:
        """The mover's address comes as the first message: its length, then its bytes."""
        room = np.zeros(ADDRESS_ROOM, dtype=np.uint8)
        await ucxx.recv(room, tag=ADDRESS_TAG)
        length = int.from_bytes(room[:4].tobytes(), "little")
        return await endpoint_to(room[4 : 4 + length].tobytes())

    async def _send(self, slot: int, tag: int) -> None:
        peer = await self._peer
        await peer.send(self._buffers[slot], tag=tag, force_tag=True)

    async def offer(self, slot: int) -> Offer:
        tag = next(self._tags)
        return Offer({"tag": tag}, asyncio.create_task(self._send(slot, tag)))

    async def close(self) -> None:
        await (await self._peer).close()


class Mover:
    def __init__(self, buffers: list[np.ndarray], peer: Any) -> None:
        self._buffers = buffers
        self._peer = peer

    @classmethod
    async def start(cls, buffers: list[np.ndarray], hello: dict[str, Any]) -> Mover:
        ucxx.init(progress_mode=PROGRESS)
        peer = await endpoint_to(bytes.fromhex(hello["address"]))
        address = worker_address()
        framed = np.frombuffer(len(address).to_bytes(4, "little") + address, dtype=np.uint8)
        await peer.send(framed, tag=ADDRESS_TAG, force_tag=True)
        return cls(buffers, peer)

    async def fetch(self, slot: int, message: dict[str, Any]) -> None:
        await ucxx.recv(self._buffers[slot], tag=message["tag"])

    async def close(self) -> None:
        await self._peer.close()
