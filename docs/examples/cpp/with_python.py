"""A Python and a C++ process move memory both ways.

``with_python.py PROGRAM`` starts PROGRAM, which is built from ``with_python.cpp`` beside this
file, first to offer buffers, which are read here, then to read what is offered here. The metadata
travels as lines of JSON over the program's standard output and input.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE

# UCX takes every network interface that it finds; this example stays on this machine.
os.environ.setdefault("UCX_NET_DEVICES", "lo")

import nixl_connect as nc
import numpy as np

BUFFERS = 64
SIZE = 4096


def contents(number: int) -> np.ndarray:
    """What buffer `number` holds, on both sides."""
    return (np.arange(SIZE) + number).astype(np.uint8)


async def read_from_cpp(connector: nc.Connector, program: str) -> None:
    process = await asyncio.create_subprocess_exec(program, "offer", stdout=PIPE)
    assert process.stdout is not None
    buffers, reads = [], []
    async for line in process.stdout:
        metadata = nc.RdmaMetadata.model_validate_json(line)
        buffers.append(np.zeros(metadata.descriptors[0].size, dtype=np.uint8))
        reads.append(await connector.begin_read(metadata, nc.Descriptor(buffers[-1])))
        if len(reads) == BUFFERS:
            break
    await asyncio.gather(*[read.wait_for_completion() for read in reads])
    assert await process.wait() == 0
    assert all(np.array_equal(buffer, contents(i)) for i, buffer in enumerate(buffers))
    print(f"Python read {len(buffers)} buffers from C++, all right", flush=True)


async def offer_to_cpp(connector: nc.Connector, program: str) -> None:
    process = await asyncio.create_subprocess_exec(program, "read", stdin=PIPE)
    assert process.stdin is not None
    offers = []
    for number in range(BUFFERS):
        offers.append(await connector.create_readable(nc.Descriptor(contents(number))))
        process.stdin.write(offers[-1].metadata().model_dump_json().encode() + b"\n")
    process.stdin.close()
    await asyncio.gather(*[offer.wait_for_completion() for offer in offers])
    assert await process.wait() == 0


async def main() -> None:
    async with nc.Connector("python") as connector:
        await read_from_cpp(connector, sys.argv[1])
        await offer_to_cpp(connector, sys.argv[1])


if __name__ == "__main__":
    asyncio.run(main())
