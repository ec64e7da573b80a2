"""asyncio's streams over Unix sockets: a connection for each slot, kept open."""

from __future__ import annotations

import asyncio
import tempfile
from typing import Any

import numpy as np

from .asked import Offer

STYLE = "asyncio"


class Owner:
    def __init__(self, buffers: list[np.ndarray]) -> None:
        self._buffers = buffers
        self._directory = tempfile.TemporaryDirectory()
        self.hello = {"path": f"{self._directory.name}/owner"}
        self._offers: dict[int, Offer] = {}

    @classmethod
    async def start(cls, buffers: list[np.ndarray]) -> Owner:
        owner = cls(buffers)
        await asyncio.start_unix_server(owner._serve, owner.hello["path"], backlog=1024)
        return owner

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while slot := await reader.read(4):
            number = int.from_bytes(slot, "little")
            writer.write(memoryview(self._buffers[number]))
            await writer.drain()
            self._offers.pop(number).end()

    async def offer(self, slot: int) -> Offer:
        offer = self._offers[slot] = Offer(slot)
        return offer

    async def close(self) -> None:
        self._directory.cleanup()


class Mover:
    def __init__(self, buffers: list[np.ndarray], path: str) -> None:
        self._buffers = buffers
        self._path = path
        self._streams: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    @classmethod
    async def start(cls, buffers: list[np.ndarray], hello: dict[str, Any]) -> Mover:
        return cls(buffers, hello["path"])

    async def fetch(self, slot: int, message: dict[str, Any]) -> None:
        if slot not in self._streams:
            self._streams[slot] = await asyncio.open_unix_connection(self._path, limit=1 << 20)
        reader, writer = self._streams[slot]
        writer.write(message["slot"].to_bytes(4, "little"))
        buffer = self._buffers[slot]
        at = 0
        while at < buffer.nbytes:
            data = await reader.read(min(1 << 20, buffer.nbytes - at))
            if not data:
                raise ConnectionError("the owner has gone")
            buffer[at : at + len(data)] = np.frombuffer(data, dtype=np.uint8)
            at += len(data)

    async def close(self) -> None:
        for _, writer in self._streams.values():
            writer.close()
