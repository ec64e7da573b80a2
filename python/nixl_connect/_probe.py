"""A transfer between two connectors of this process; prints what came of it as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import nixl_connect as nc

_BYTES = 16 << 20


def _buffers(kind: str) -> tuple[Any, Any, Any]:
    """A source, a target, and a function that says whether they are the same."""
    if kind == "host":
        sent, arrived = bytearray(b"\x5a" * _BYTES), bytearray(_BYTES)
        return sent, arrived, lambda: sent == arrived
    import torch

    source = torch.full((_BYTES,), 0x5A, dtype=torch.uint8, device=kind)
    target = torch.zeros_like(source)
    torch.cuda.synchronize()
    return source, target, lambda: torch.equal(source, target)


async def _transfer(kind: str) -> dict[str, object]:
    source, target, same = _buffers(kind)
    seconds = []
    async with nc.Connector("owner") as owner, nc.Connector("mover") as mover:
        for _ in range(5):
            began = time.perf_counter()
            offer = await owner.create_readable(nc.Descriptor(source), timeout=20)
            read = await mover.begin_read(offer.metadata(), nc.Descriptor(target), timeout=20)
            await asyncio.gather(read.wait_for_completion(), offer.wait_for_completion())
            seconds.append(time.perf_counter() - began)
        library = owner.nixl_library
    if not same():
        raise RuntimeError("the bytes that arrived are not those that were sent")
    return {"probe": kind, "library": library, "bytes": _BYTES, "seconds": min(seconds)}


def main(kind: str) -> None:
    if kind != "host":
        try:
            import torch
        except ImportError:
            print(json.dumps({"probe": kind, "skipped": "needs torch"}))
            return
        if not torch.cuda.is_available():
            print(json.dumps({"probe": kind, "skipped": "torch finds no CUDA device"}))
            return
    try:
        result = asyncio.run(_transfer(kind))
    except Exception as error:
        result = {"probe": kind, "error": f"{type(error).__name__}: {error}"}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
