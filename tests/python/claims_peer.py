"""A worker in a process of its own, as peer.py's, that offers and uses parts of one large memory.

That memory is made once, so that a test can act in the middle of one long transfer after another.
Its requests, beside those of peer.py: ``prepare`` (make the memory), ``register`` (all of it),
``offer`` and ``begin`` (with
a part of it, filled with one value), ``progress`` (reply when somebody is at an offer), ``state``,
``refill`` (fill an offer's memory anew as soon as it is released), ``holds``, ``close`` (the
connector, and go on with a new one), ``leave`` (end without closing it), ``unmapped`` (offer memory
that is gone), ``decline`` and ``readers``.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import mmap
import sys
import time
from typing import Any

import numpy as np
from peer import Worker

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


# Where nothing else is mapped, so that nothing comes there later.
_NOWHERE = itertools.count(0x2000_0000_0000, 1 << 32)


def map_for_a_while(size: int) -> int:
    """The address of memory that is to be unmapped with `LIBC.munmap`."""
    protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return int(LIBC.mmap(next(_NOWHERE), size, protection, flags, -1, 0))


def holds(memory: np.ndarray[Any, np.dtype[np.uint8]], value: int) -> bool:
    return bool(memory.min() == value == memory.max())


class ClaimsPeer(Worker):
    def __init__(self, worker_id: str) -> None:
        super().__init__("nixl_connect", worker_id)
        self.worker_id = worker_id
        self.memory = np.zeros(0, dtype=np.uint8)
        self.kept: list[Any] = []

    async def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        self.memory = np.empty(request["size"], dtype=np.uint8)
        self.memory[:] = 0
        # What a test offers with a deadline need not wait for NIXL's start.
        await self.connector.warmup()
        return {}

    async def register(self, request: dict[str, Any]) -> dict[str, Any]:
        self.kept.append(self.nc.Descriptor(self.memory))
        self.kept[-1].register_with_connector(self.connector)
        return {}

    def part(self, request: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        start = request.get("start", 0)
        return self.memory[start : start + request["size"]]

    def remember(self, operation: Any, memory: Any) -> dict[str, Any]:
        metadata = operation.metadata()
        self.offers[metadata.notification_key] = (operation, [memory])
        return {"metadata": metadata.model_dump()}

    async def offer(self, request: dict[str, Any]) -> dict[str, Any]:
        reads = request["kind"] == "read"
        memory = self.part(request)
        memory[:] = request["value"] if reads else 0
        places = {"readers" if reads else "writers": request.get("places", 1)}
        create = self.connector.create_readable if reads else self.connector.create_writable
        timeout = self.deadline(request)
        return self.remember(await create(self.nc.Descriptor(memory), **timeout, **places), memory)

    async def unmapped(self, request: dict[str, Any]) -> dict[str, Any]:
        address, size = map_for_a_while(request["size"]), request["size"]
        descriptor = self.nc.Descriptor((address, size, "cpu", None))
        operation = await self.connector.create_readable(descriptor, timeout=20)
        LIBC.munmap(address, size)
        return self.remember(operation, None)

    async def begin(self, request: dict[str, Any]) -> dict[str, Any]:
        reads = request["kind"] == "read"
        memory = self.part(request)
        memory[:] = 0 if reads else request["value"]
        metadata = self.nc.RdmaMetadata.model_validate(request["metadata"])
        local, timeout = self.nc.Descriptor(memory), self.deadline(request)
        if reads:
            operation = await self.connector.begin_read(metadata, local, **timeout)
        else:
            operation = await self.connector.begin_write(local, metadata, **timeout)
        await operation.wait_for_completion()
        status = operation.status.name
        return {"status": status, "right": holds(memory, request["value"])}

    async def decline(self, request: dict[str, Any]) -> dict[str, Any]:
        metadata = self.nc.RdmaMetadata.model_validate(request["metadata"])
        await self.connector.decline(metadata, request["reason"], timeout=10)
        return {}

    async def progress(self, request: dict[str, Any]) -> dict[str, Any]:
        operation, _ = self.offers[request["key"]]
        while operation.status.name == "INITIALIZED":  # noqa: ASYNC110
            await asyncio.sleep(0.0005)
        return {"status": operation.status.name}

    async def state(self, request: dict[str, Any]) -> dict[str, Any]:
        operation, _ = self.offers[request["key"]]
        return {"status": operation.status.name, "released": operation.released}

    async def readers(self, request: dict[str, Any]) -> dict[str, Any]:
        operation, _ = self.offers[request["key"]]
        return {"done": operation.readers_done, "failed": operation.readers_failed}

    async def cancel(self, request: dict[str, Any]) -> dict[str, Any]:
        self.offers[request["key"]][0].cancel()
        return {}

    async def wait(self, request: dict[str, Any]) -> dict[str, Any]:
        operation, _ = self.offers[request["key"]]
        await operation.wait_for_completion()
        return {"status": operation.status.name}

    async def refill(self, request: dict[str, Any]) -> dict[str, Any]:
        operation, (memory,) = self.offers[request["key"]]
        began = time.monotonic()
        await operation.wait_for_release(request.get("timeout", 30))
        if memory is not None:
            memory[:] = request["value"]
        return {"seconds": time.monotonic() - began}

    async def holds(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"right": holds(self.offers[request["key"]][1][0], request["value"])}

    async def close(self, request: dict[str, Any]) -> dict[str, Any]:
        began = time.monotonic()
        await self.connector.aclose()
        seconds = time.monotonic() - began
        self.connector = self.nc.Connector(self.worker_id)
        return {"seconds": seconds}

    async def leave(self, request: dict[str, Any]) -> dict[str, Any]:
        self.kept.append(self.connector)
        self.connector = None
        return {}


if __name__ == "__main__":
    asyncio.run(ClaimsPeer(sys.argv[1]).serve())
