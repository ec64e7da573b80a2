"""pyzmq over a Unix socket, through its asyncio API: the mover asks for a slot, and copies what
comes into its buffer. The owner's side is not copied."""

from __future__ import annotations

import asyncio
import os
import tempfile
from typing import Any

import numpy as np
import zmq
import zmq.asyncio

from .asked import Offer

STYLE = "asyncio"


class Owner:
    def __init__(self, buffers: list[np.ndarray]) -> None:
        self._buffers = buffers
        self._directory = tempfile.TemporaryDirectory()
        self.hello = {"address": f"ipc://{self._directory.name}/owner"}
        self._socket = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
        self._socket.bind(self.hello["address"])
        self._offers: dict[int, Offer] = {}
        self._serving = asyncio.create_task(self._serve())

    @classmethod
    async def start(cls, buffers: list[np.ndarray]) -> Owner:
        return cls(buffers)

    async def _serve(self) -> None:
        while True:
            peer, slot = await self._socket.recv_multipart()
            number = int.from_bytes(slot, "little")
            await self._socket.send_multipart([peer, slot, self._buffers[number]], copy=False)
            self._offers.pop(number).end()

    async def offer(self, slot: int) -> Offer:
        offer = self._offers[slot] = Offer(slot)
        return offer

    async def close(self) -> None:
        self._serving.cancel()
        self._socket.close(0)


class Mover:
    def __init__(self, buffers: list[np.ndarray], address: str) -> None:
        self._buffers = buffers
        self._socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        self._socket.connect(address)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._receiving = asyncio.create_task(self._receive())

    @classmethod
    async def start(cls, buffers: list[np.ndarray], hello: dict[str, Any]) -> Mover:
        return cls(buffers, hello["address"])

    async def _receive(self) -> None:
        while True:
            slot, data = await self._socket.recv_multipart(copy=False)
            number = int.from_bytes(slot.bytes, "little")
            self._buffers[number][:] = np.frombuffer(data.buffer, dtype=np.uint8)
            self._waiting.pop(number).set_result(None)

    async def fetch(self, slot: int, message: dict[str, Any]) -> None:
        waiting = self._waiting[slot] = asyncio.get_running_loop().create_future()
        await self._socket.send(message["slot"].to_bytes(4, "little"))
        await waiting

    async def close(self) -> None:
        self._receiving.cancel()
        self._socket.close(0)
        os.sched_yield()
