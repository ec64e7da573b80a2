"""A worker in a process of its own, driven by JSON lines over standard input and output.

It speaks `nixl_connect` or, with the same code, `dynamo.nixl_connect`: what it does is what
a caller of either does. Each request is a task; a reply carries its request's number.

Requests: ``offer`` (make memory, create the operation, reply with its metadata), ``wait`` (for
an offer's end, and check what arrived), ``status`` (of an offer), ``begin`` (read or write, wait,
check), ``cancel``, ``start_child`` (a program that inherits what it can), and ``calls`` (how often
the stand-in for CUDA's driver had its functions of these names called). With ``where``, or ``NIXL_CONNECT_TEST_WHERE`` in the environment, the memory is on these devices in turn
(a comma between two in the environment); see gpus.py.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from typing import Any

import numpy as np

WHERE = list(filter(None, os.environ.get("NIXL_CONNECT_TEST_WHERE", "").split(",")))


def contents(seed: int, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The bytes that a buffer with this seed holds."""
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def on_devices(arrays: list[Any], devices: list[str]) -> list[Any]:
    """The arrays on each device in turn."""
    import gpus

    return [gpus.put(array, devices[i % len(devices)]) for i, array in enumerate(arrays)]


class Worker:
    def __init__(self, library: str, worker_id: str) -> None:
        self.nc = importlib.import_module(library)
        self.connector = self.nc.Connector(worker_id)
        self.offers: dict[str, tuple[Any, list[Any]]] = {}

    def buffers(self, request: dict[str, Any], filled: bool) -> list[Any]:
        sizes = request["sizes"]
        if filled:
            made = [contents(request["seed"] + i, size) for i, size in enumerate(sizes)]
        else:
            made = [np.zeros(size, dtype=np.uint8) for size in sizes]
        where = request.get("where", WHERE)
        return on_devices(made, where) if where else made

    def descriptors(self, buffers: list[Any]) -> Any:
        made = [self.nc.Descriptor((b, "cpu") if isinstance(b, np.ndarray) else b) for b in buffers]
        return made[0] if len(made) == 1 else made

    @staticmethod
    def deadline(request: dict[str, Any]) -> dict[str, float]:
        """A deadline of its own, which only `nixl_connect` has."""
        return {"timeout": request["timeout"]} if "timeout" in request else {}

    @staticmethod
    def check(buffers: list[Any], seed: int) -> bool:
        def holds(buffer: Any, expected: np.ndarray[Any, np.dtype[np.uint8]]) -> bool:
            if not isinstance(buffer, np.ndarray):
                import gpus

                buffer = gpus.get(buffer)
            return np.array_equal(buffer, expected)

        return all(holds(b, contents(seed + i, b.shape[0])) for i, b in enumerate(buffers))

    async def offer(self, request: dict[str, Any]) -> dict[str, Any]:
        readable = request["kind"] == "read"
        buffers = self.buffers(request, filled=readable)
        create = self.connector.create_readable if readable else self.connector.create_writable
        operation = await create(self.descriptors(buffers), **self.deadline(request))
        metadata = operation.metadata(hex_encode=request.get("hex", False))
        self.offers[metadata.notification_key] = (operation, buffers)
        return {"metadata": metadata.model_dump()}

    async def wait(self, request: dict[str, Any]) -> dict[str, Any]:
        operation, buffers = self.offers[request["key"]]
        with operation:
            await operation.wait_for_completion()
            status = str(operation.status)
        del self.offers[request["key"]]
        seed = request.get("seed")
        return {"status": status, "right": seed is None or self.check(buffers, seed)}

    async def status(self, request: dict[str, Any]) -> dict[str, Any]:
        operation, _ = self.offers[request["key"]]
        return {"status": str(operation.status)}

    async def begin(self, request: dict[str, Any]) -> dict[str, Any]:
        reads = request["kind"] == "read"
        buffers = self.buffers(request, filled=not reads)
        metadata = self.nc.RdmaMetadata.model_validate(request["metadata"])
        local = self.descriptors(buffers)
        if reads:
            operation = await self.connector.begin_read(metadata, local, **self.deadline(request))
        else:
            operation = await self.connector.begin_write(local, metadata, **self.deadline(request))
        with operation:
            await operation.wait_for_completion()
            status = str(operation.status)
        right = not reads or self.check(buffers, request["seed"])
        return {"status": status, "right": right}

    async def cancel(self, request: dict[str, Any]) -> dict[str, Any]:
        operation, _ = self.offers.pop(request["key"])
        operation.cancel()
        return {"status": str(operation.status)}

    async def drop(self, request: dict[str, Any]) -> dict[str, Any]:
        operation, _ = self.offers.pop(request["key"])
        with operation:
            return {}

    async def start_child(self, request: dict[str, Any]) -> dict[str, Any]:
        child = await asyncio.create_subprocess_exec(
            "sleep", "60", close_fds=False, stdout=asyncio.subprocess.DEVNULL
        )
        return {"pid": child.pid}

    async def calls(self, request: dict[str, Any]) -> dict[str, Any]:
        import gpus

        return {"calls": [gpus.calls(name) for name in request["names"]]}

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        tasks = set()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            task = asyncio.create_task(self.reply(json.loads(line)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if hasattr(self.connector, "aclose"):
            await self.connector.aclose()

    async def reply(self, request: dict[str, Any]) -> None:
        try:
            answer = await getattr(self, request["do"])(request)
        except Exception as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        print(json.dumps({"number": request["number"], **answer}), flush=True)


if __name__ == "__main__":
    asyncio.run(Worker(sys.argv[1], sys.argv[2]).serve())
