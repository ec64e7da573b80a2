"""Transfers of one kind of memory, as the doctor asks for them; prints what came of it as JSON.

Host memory moves between two connectors of this process; a GPU's between two processes, for
within one UCX has no way from GPU to GPU but by the host.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import nixl_connect as nc

from ._cuda import Buffer, CudaError, Driver
from ._process import child, take_standard_output

_BYTES = 16 << 20
_DATA = b"\x5a" * _BYTES
_TIMES = 5
_TIMEOUT = 20.0
_ANSWER = '{"probe"'


def command(kind: str) -> list[str]:
    """The command line of a process that prints its answer: see `answers`."""
    return child("from nixl_connect.commands.probe import main; main()", kind)


def answers(output: str) -> list[dict[str, object]]:
    """What probes have answered, among what Python's start may have printed."""
    return [json.loads(line) for line in output.splitlines() if line.startswith(_ANSWER)]


def _check(arrived: bytes | bytearray) -> None:
    if arrived != _DATA:
        raise RuntimeError("the bytes that arrived are not those that were sent")


async def _shortest(transfer: Callable[[], Awaitable[None]]) -> float:
    seconds = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        await transfer()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


async def _host() -> dict[str, object]:
    source, target = bytearray(_DATA), bytearray(_BYTES)
    async with nc.Connector("owner") as owner, nc.Connector("mover") as mover:

        async def read() -> None:
            offer = await owner.create_readable(nc.Descriptor(source), timeout=_TIMEOUT)
            reading = await mover.begin_read(
                offer.metadata(), nc.Descriptor(target), timeout=_TIMEOUT
            )
            await asyncio.gather(reading.wait_for_completion(), offer.wait_for_completion())

        seconds = await _shortest(read)
        library = owner.nixl_library
    _check(target)
    return {"library": library, "bytes": _BYTES, "seconds": seconds}


def _devices() -> dict[str, object]:
    driver = Driver()
    return {"devices": driver.devices(), "version": driver.version}


async def _gpu() -> dict[str, object]:
    """Offers memory to a process that reads it and writes it."""
    driver = Driver()
    source, target = Buffer(driver, _BYTES), Buffer(driver, _BYTES)
    source.set(_DATA)
    async with nc.Connector("owner") as owner:
        mover = await asyncio.create_subprocess_exec(
            *command("cuda-peer"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert mover.stdin is not None
        assert mover.stdout is not None
        said = asyncio.ensure_future(mover.stdout.read())
        offers: list[tuple[Any, Buffer]] = [(owner.create_readable, source)] * _TIMES
        offers += [(owner.create_writable, target)] * _TIMES
        for create, buffer in offers:
            offer = await create(nc.Descriptor(buffer), timeout=_TIMEOUT)
            mover.stdin.write(offer.metadata().model_dump_json().encode() + b"\n")
            waiting = asyncio.ensure_future(offer.wait_for_completion())
            await asyncio.wait({waiting, said}, return_when=asyncio.FIRST_COMPLETED)
            if said.done():
                # The child has ended, early or just now; it says why.
                waiting.cancel()
                break
        mover.stdin.close()
        output = (await said).decode()
        status = await mover.wait()
    for answer in answers(output):
        if "seconds" in answer:
            _check(target.get())
        del answer["probe"]
        return answer
    raise RuntimeError(f"the process that was to move the memory ended with status {status}")


async def _gpu_peer() -> dict[str, object]:
    driver = Driver()
    buffer = Buffer(driver, _BYTES)
    loop = asyncio.get_running_loop()
    async with nc.Connector("mover") as mover:

        async def next_metadata() -> nc.RdmaMetadata:
            line = await loop.run_in_executor(None, sys.stdin.readline)
            return nc.RdmaMetadata.model_validate_json(line)

        async def read() -> None:
            reading = await mover.begin_read(
                await next_metadata(), nc.Descriptor(buffer), timeout=_TIMEOUT
            )
            await reading.wait_for_completion()

        async def write() -> None:
            writing = await mover.begin_write(
                nc.Descriptor(buffer), await next_metadata(), timeout=_TIMEOUT
            )
            await writing.wait_for_completion()

        read_seconds = await _shortest(read)
        _check(buffer.get())
        write_seconds = await _shortest(write)
    return {"bytes": _BYTES, "seconds": read_seconds, "write_seconds": write_seconds}


_KINDS: dict[str, Callable[[], Awaitable[dict[str, object]]]] = {
    "host": _host,
    "devices": lambda: asyncio.to_thread(_devices),
    "cuda": _gpu,
    "cuda-peer": _gpu_peer,
}


async def _answer(kind: str) -> dict[str, object]:
    try:
        return await _KINDS[kind]()
    except CudaError as error:
        return {"absent" if error.absent else "error": str(error)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    take_standard_output()
    kind = sys.argv[1]
    print(json.dumps({"probe": kind, **asyncio.run(_answer(kind))}), flush=True)


if __name__ == "__main__":
    main()
