"""A web service that offers tensors and reads those of its clients.

HTTP carries the metadata, which is a pydantic model and so a body or a response as it is; the
tensors move over NIXL.

- ``GET /pictures/{number}`` offers a picture and replies with the metadata to read it by, and with
  its shape and type, which the metadata does not have: it is of bytes.
- ``POST /sums`` takes the metadata of numbers that the client offers, reads them, and replies
  with their sum. When the client hangs up meanwhile, the read is cancelled.
- ``GET /stats`` tells what the connector has done.

``python docs/examples/fastapi_service.py`` starts the service in a process of its own and is
its client; ``uvicorn --app-dir docs/examples fastapi_service:app`` starts the service alone.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

# UCX takes every network interface that it finds; this demonstration stays on this machine.
os.environ.setdefault("UCX_NET_DEVICES", "lo")

import httpx
import nixl_connect as nc
import torch
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

SHAPE = (3, 256, 256)
LARGEST = 64 << 20  # bytes that a client may have us read
TIMEOUT = 30.0  # seconds until an operation fails
FLOAT = 4  # bytes

Result = TypeVar("Result")


class Picture(BaseModel):
    """What a client needs to read a tensor."""

    shape: tuple[int, ...]
    dtype: str
    metadata: nc.RdmaMetadata


def draw(number: int) -> torch.Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(number))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.offers = set()
    # Closing it ends what is still offered or under way.
    async with nc.Connector("service", default_timeout=TIMEOUT) as app.state.connector:
        yield


app = FastAPI(lifespan=lifespan)


async def connector_of(request: Request) -> nc.Connector:
    connector: nc.Connector = request.app.state.connector
    return connector


Connector = Annotated[nc.Connector, Depends(connector_of)]


@app.exception_handler(nc.RejectedMetadataError)
@app.exception_handler(ValueError)
async def refuse(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=422)


@app.exception_handler(nc.TransferError)
async def fail(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": f"{type(error).__name__}: {error}"}, status_code=502)


@app.get("/pictures/{number}")
async def offer_picture(number: int, connector: Connector) -> Picture:
    picture = draw(number)
    readable = await connector.create_readable(nc.Descriptor(picture))
    # The reply comes before the end: a task holds the offer until it is read or too old.
    held = asyncio.create_task(hold(readable))
    app.state.offers.add(held)
    held.add_done_callback(app.state.offers.discard)
    dtype = str(picture.dtype).removeprefix("torch.")
    return Picture(shape=tuple(picture.shape), dtype=dtype, metadata=readable.metadata())


async def hold(operation: nc.ReadableOperation) -> None:
    with suppress(nc.TransferError):
        await operation.wait_for_completion()


@app.post("/sums")
async def read_and_sum(offer: nc.RdmaMetadata, request: Request, connector: Connector) -> float:
    size = sum(piece.size for piece in offer.descriptors)
    if size > LARGEST:
        raise HTTPException(413, f"expected at most {LARGEST} bytes, got {size}")
    numbers = [torch.empty(piece.size // FLOAT) for piece in offer.descriptors]
    async with connector.begin_read(offer, [nc.Descriptor(n) for n in numbers]) as read:
        await unless_disconnected(request, read.wait_for_completion())
    return float(torch.cat(numbers).sum())


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The work's result; when the client hangs up first, the work is cancelled."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, listening = asyncio.create_task(work), asyncio.create_task(disconnected())
    try:
        await asyncio.wait([working, listening], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise HTTPException(499, "the client has hung up")
        return await working
    finally:
        working.cancel()
        listening.cancel()


@app.get("/stats")
async def stats(connector: Connector) -> nc.ConnectorStats:
    return connector.stats()


async def fetch_picture(http: httpx.AsyncClient, connector: nc.Connector, number: int) -> bool:
    reply = (await http.get(f"/pictures/{number}")).raise_for_status()
    offer = Picture.model_validate_json(reply.content)
    picture = torch.empty(offer.shape, dtype=getattr(torch, offer.dtype))
    async with connector.begin_read(offer.metadata, nc.Descriptor(picture)) as read:
        await read.wait_for_completion()
    return torch.equal(picture, draw(number))


async def have_summed(http: httpx.AsyncClient, connector: nc.Connector, count: int) -> bool:
    numbers = torch.arange(count, dtype=torch.float32)
    async with connector.create_readable(nc.Descriptor(numbers)) as readable:
        offer = readable.metadata().model_dump()
        reply = (await http.post("/sums", json=offer)).raise_for_status()
        await readable.wait_for_completion()
    return bool(reply.json() == numbers.sum())


async def client(url: str) -> int:
    """Returns how many transfers were wrong."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as http, nc.Connector("client") as ours:
        right = await asyncio.gather(
            *[fetch_picture(http, ours, number) for number in range(50)],
            *[have_summed(http, ours, 1 + number) for number in range(50)],
        )
        read = (await http.get("/stats")).json()["operations"]["read"]
    print(f"{len(right)} transfers, {right.count(False)} wrong")
    print(f"The service has read {read['complete']} tensors, {read['bytes']} bytes")
    return right.count(False)


@contextmanager
def started() -> Iterator[str]:
    """The service in a process of its own; its URL."""
    # It inherits a socket that listens already, so there is nothing to wait for.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = str(listening.fileno())
        uvicorn = [sys.executable, "-m", "uvicorn", "--log-level", "warning", "--fd", fd]
        folder = str(Path(__file__).parent)
        service = subprocess.Popen(
            [*uvicorn, "--app-dir", folder, "fastapi_service:app"], pass_fds=[int(fd)]
        )
        port = listening.getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        service.terminate()
        service.wait()


def main() -> int:
    with started() as url:
        return asyncio.run(client(url))


if __name__ == "__main__":
    sys.exit(main())
