"""An encode worker and a prefill worker, as in a disaggregated multimodal server.

The prefill worker asks for the embeddings of pictures, dozens of requests at a time. The
encode worker runs a small vision model, offers each result with ``create_readable`` and sends
the metadata as JSON over a local socket. The prefill worker reads the embeddings over NIXL
with ``begin_read`` and checks every byte.

Run it with ``make demo``, or ``python docs/examples/encode_prefill.py --requests 500``.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# UCX takes every network interface that it finds; this demonstration stays on this machine.
os.environ.setdefault("UCX_NET_DEVICES", "lo")

import nixl_connect as nc
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

SIDE = 224  # pixels
PATCH = 14  # pixels
WIDTH = 256  # numbers in an embedding
PICTURES = 8


def draw_picture(index: int) -> torch.Tensor:
    """A picture of a few discs over a gradient, (3, SIDE, SIDE), values from 0 to 1."""
    generator = torch.Generator().manual_seed(index)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    picture = torch.stack([x / SIDE, y / SIDE, 1 - x / SIDE])
    for _ in range(6):
        cx, cy, radius = torch.randint(10, SIDE - 10, (3,), generator=generator).tolist()
        inside = (x - cx) ** 2 + (y - cy) ** 2 < (radius // 4) ** 2
        picture[:, inside] = torch.rand(3, 1, generator=generator)
    return picture


class Encoder(torch.nn.Module):
    """The front of a vision transformer: patches, one block, a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.block = torch.nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True)
        self.norm = torch.nn.LayerNorm(WIDTH)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(picture[None]).flatten(2).transpose(1, 2)
        result: torch.Tensor = self.norm(self.block(tokens))[0]
        return result


def digest(tensor: torch.Tensor) -> str:
    return hashlib.blake2b(tensor.numpy()).hexdigest()


async def encode_worker(path: str) -> None:
    """Answers each line ``{"id", "picture"}`` with ``{"id", "metadata", "shape", "digest"}``."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Encoder().eval()
    pictures = [draw_picture(i) for i in range(PICTURES)]
    model_thread = ThreadPoolExecutor(1)
    tasks: set[asyncio.Task[None]] = set()
    finished = asyncio.Event()

    def encode(index: int) -> torch.Tensor:
        with torch.inference_mode():
            return model(pictures[index]).contiguous()

    async with nc.Connector("encode") as connector:

        async def answer(request: dict[str, int], writer: asyncio.StreamWriter) -> None:
            loop = asyncio.get_running_loop()
            embeddings = await loop.run_in_executor(model_thread, encode, request["picture"])
            async with connector.create_readable(nc.Descriptor(embeddings)) as readable:
                reply = {
                    "id": request["id"],
                    "metadata": readable.metadata().model_dump(),
                    "shape": list(embeddings.shape),
                    "digest": digest(embeddings),
                }
                writer.write(json.dumps(reply).encode() + b"\n")
                await readable.wait_for_completion()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async for line in reader:
                task = asyncio.create_task(answer(json.loads(line), writer))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)
            writer.close()
            finished.set()

        server = await asyncio.start_unix_server(serve, path)
        async with server:
            await finished.wait()


async def prefill_worker(path: str, requests: int, in_flight: int) -> int:
    """Reads `requests` embeddings, `in_flight` at a time; returns how many were wrong."""
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
    replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
    latencies: list[float] = []
    transfers: list[float] = []
    moved = wrong = 0

    async def listen() -> None:
        async for line in reader:
            reply = json.loads(line)
            replies.pop(reply["id"]).set_result(reply)

    listening = asyncio.create_task(listen())
    numbers = itertools.count()
    async with nc.Connector("prefill") as connector:
        with Progress(
            "[progress.description]{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        ) as progress:
            bar = progress.add_task("Reading embeddings", total=requests)

            async def client() -> None:
                nonlocal moved, wrong
                while (number := next(numbers)) < requests:
                    replies[number] = asyncio.get_running_loop().create_future()
                    asked = time.perf_counter()
                    request = {"id": number, "picture": number % PICTURES}
                    writer.write(json.dumps(request).encode() + b"\n")
                    reply = await replies[number]

                    told = time.perf_counter()
                    embeddings = torch.empty(reply["shape"])
                    metadata = nc.RdmaMetadata.model_validate(reply["metadata"])
                    async with connector.begin_read(metadata, nc.Descriptor(embeddings)) as read:
                        await read.wait_for_completion()
                    here = time.perf_counter()

                    latencies.append(here - asked)
                    transfers.append(here - told)
                    moved += embeddings.numel() * embeddings.element_size()
                    wrong += digest(embeddings) != reply["digest"]
                    progress.advance(bar)

            began = time.perf_counter()
            await asyncio.gather(*[client() for _ in range(in_flight)])
            elapsed = time.perf_counter() - began
    writer.close()
    await listening

    def percentile(values: list[float], percent: int) -> str:
        return f"{statistics.quantiles(values, n=100)[percent - 1] * 1e3:.2f} ms"

    table = Table("", "request", "transfer alone", title="Embeddings over NIXL")
    table.add_row("p50 latency", percentile(latencies, 50), percentile(transfers, 50))
    table.add_row("p99 latency", percentile(latencies, 99), percentile(transfers, 99))
    table.add_section()
    table.add_row("requests", f"{requests}, {in_flight} in flight")
    table.add_row("bytes", f"{moved:,}, every one checked, {wrong} embeddings wrong")
    table.add_row("rate", f"{requests / elapsed:,.0f} requests/s")
    Console().print(table)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=48)
    parser.add_argument("--role", choices=["encode", "prefill"], help=argparse.SUPPRESS)
    parser.add_argument("--socket", help=argparse.SUPPRESS)
    options = parser.parse_args()

    if options.role == "encode":
        asyncio.run(encode_worker(options.socket))
        return 0
    if options.role == "prefill":
        return asyncio.run(prefill_worker(options.socket, options.requests, options.in_flight))

    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder, "socket")
        command = [sys.executable, *sys.argv, "--socket", str(socket), "--role"]
        encode = subprocess.Popen([*command, "encode"])
        while not socket.exists() and encode.poll() is None:
            time.sleep(0.01)
        prefill = subprocess.Popen([*command, "prefill"])
        return max(abs(prefill.wait()), abs(encode.wait()))


if __name__ == "__main__":
    sys.exit(main())
