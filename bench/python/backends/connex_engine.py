"""connex-rs: its Engine, with a thread of its own that progresses UCX.

Both sides register a buffer for each operation. The mover starts a one-sided read with
`get_async` and polls its handle. A read tells the owner nothing, so the owner learns of the end
over the pipe. The wheel does not carry UCX: the one in `libucx-cu12` is loaded first.

The thread spins for 500 us before it sleeps, by the library's default. BENCH_CONNEX_SPIN_US
changes that, which matters where there are fewer cores than spinning threads.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("UCX_NET_DEVICES", "lo")
os.environ.setdefault("UCX_LOG_FILE", "stderr")  # not among the lines on standard output

import libucx
import numpy as np

from .one_sided import Offering, Registered

libucx.load_library()

import connex_rs  # noqa: E402

STYLE = "spin"
NOTIFIES = False
HOST = "127.0.0.1"
SPIN_US = int(os.environ.get("BENCH_CONNEX_SPIN_US", "500"))


def new_engine(stage: int) -> Any:
    return connex_rs.Engine("bench", stage, listen_ip=HOST, spin_us=SPIN_US)


class Owner(Offering):
    def __init__(self, buffers: list[np.ndarray]) -> None:
        super().__init__(new_engine(0), buffers)
        self.hello = {"url": self._engine.local_url}

    def close(self) -> None:
        self._engine.close()


class Mover(Registered):
    def __init__(self, buffers: list[np.ndarray], hello: dict[str, Any]) -> None:
        super().__init__(new_engine(1), buffers)
        self._url = hello["url"]
        self._reads: dict[int, Any] = {}

    def begin(self, slot: int, message: dict[str, Any]) -> None:
        buffer = self._buffers[slot]
        self.register(slot)
        self._reads[slot] = self._engine.get_async(
            self._url, buffer.ctypes.data, message["address"], buffer.nbytes
        )

    def poll(self) -> list[int]:
        done = [slot for slot, read in self._reads.items() if read.done()]
        for slot in done:
            self._reads.pop(slot).wait()  # raises what went wrong, if anything
            self.unregister(slot)
        return done

    def close(self) -> None:
        self._engine.close()
