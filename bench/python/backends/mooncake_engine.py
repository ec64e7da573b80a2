"""Mooncake's Transfer Engine over TCP, with its peer-to-peer handshake for metadata.

Both sides register a buffer for each operation. The mover starts a read of one buffer with
`batch_transfer_async_read` and polls it with `transfer_check_status`, which also frees it.
A read tells the owner nothing, so the owner learns of the end over the pipe. The engine listens
on every interface and has no setting for that: run both processes in a network namespace with
nothing but loopback in it (`unshare -n`, then `ip link set lo up`).
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("MC_TCP_BIND_ADDRESS", "127.0.0.1")
os.environ.setdefault("MC_LOG_LEVEL", "ERROR")

import numpy as np
from mooncake.engine import TransferEngine

from .one_sided import Offering, Registered

STYLE = "spin"
NOTIFIES = False
HOST = "127.0.0.1"


def new_engine() -> Any:
    engine = TransferEngine()
    if engine.initialize(HOST, "P2PHANDSHAKE", "tcp", ""):
        raise RuntimeError("Mooncake's engine did not start")
    return engine


class Owner(Offering):
    def __init__(self, buffers: list[np.ndarray]) -> None:
        super().__init__(new_engine(), buffers)
        self.hello = {"session": f"{HOST}:{self._engine.get_rpc_port()}"}

    def close(self) -> None:
        del self._engine


class Mover(Registered):
    def __init__(self, buffers: list[np.ndarray], hello: dict[str, Any]) -> None:
        super().__init__(new_engine(), buffers)
        self._session = hello["session"]
        self._batches: dict[int, int] = {}

    def begin(self, slot: int, message: dict[str, Any]) -> None:
        buffer = self._buffers[slot]
        self.register(slot)
        batch = self._engine.batch_transfer_async_read(
            self._session, [buffer.ctypes.data], [message["address"]], [buffer.nbytes]
        )
        if not batch:
            raise RuntimeError("Mooncake did not start a read")
        self._batches[slot] = batch

    def poll(self) -> list[int]:
        done = []
        for slot, batch in self._batches.items():
            status = self._engine.transfer_check_status(batch)
            if status < 0:
                raise RuntimeError(f"Mooncake's read failed with {status}")
            if status:
                done.append(slot)
        for slot in done:
            del self._batches[slot]
            self.unregister(slot)
        return done

    def close(self) -> None:
        del self._engine
