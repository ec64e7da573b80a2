"""A program without asyncio: threads, and calls that block.

One process makes tensors and offers them, a thread for each; the other reads them with as many
threads. Metadata goes through a queue of `multiprocessing`. At the end two things go wrong, to
show what is raised and when.

Run it with ``python docs/examples/threads.py``.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# UCX takes every network interface that it finds; this demonstration stays on this machine.
os.environ.setdefault("UCX_NET_DEVICES", "lo")

import nixl_connect as nc
import torch

THREADS = 8
TENSORS = 200
SHAPE = (128, 128)
PATIENCE = 30.0  # seconds


def contents(number: int) -> torch.Tensor:
    return torch.full(SHAPE, float(number))


def read_all(offers: Any, results: Any) -> None:
    """The other process: reads until it is told to stop, and says what it found."""

    def read_some(connector: nc.Connector) -> None:
        while (offer := offers.get()) is not None:
            number, message = offer
            metadata = nc.RdmaMetadata.model_validate_json(message)
            here = torch.empty(SHAPE)
            try:
                with connector.begin_read_blocking(metadata, nc.Descriptor(here)) as read:
                    read.wait(timeout=PATIENCE)
            except (nc.TransferError, TimeoutError) as error:
                results.put(f"{number}: {type(error).__name__}: {error}")
            else:
                results.put(None if torch.equal(here, contents(number)) else f"{number}: differs")

    with nc.Connector("reader") as connector, ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(read_some, connector) for _ in range(THREADS)]:
            done.result()


def offer_one(connector: nc.Connector, offers: Any, number: int) -> None:
    with connector.create_readable_blocking(nc.Descriptor(contents(number))) as readable:
        offers.put((number, readable.metadata().model_dump_json()))
        readable.wait(timeout=PATIENCE)


def two_errors(connector: nc.Connector) -> None:
    # Nobody reads this one. To stop waiting is not to stop the operation, which goes on until
    # its own deadline. Both are a TimeoutError; only the operation's is a TransferError.
    descriptor = nc.Descriptor(contents(0))
    with connector.create_readable_blocking(descriptor, timeout=0.5) as readable:
        try:
            readable.wait(timeout=0.1)
        except nc.WaitTimeoutError as error:
            print(f"Not yet:  {type(error).__name__}: {error}")
        try:
            readable.wait()
        except nc.DeadlineExceededError as error:
            print(f"Too late: {type(error).__name__}: {error}")

    # A mistake is told by the call that makes it, before anything moves.
    with connector.create_readable_blocking(descriptor) as readable:
        too_small = nc.Descriptor(bytearray(10))
        try:
            connector.begin_read_blocking(readable.metadata(), too_small)
        except ValueError as error:
            print(f"Mistaken: {type(error).__name__}: {error}")


def main() -> int:
    # Not "fork": UCX, which a connector has started, does not survive one.
    context = multiprocessing.get_context("spawn")
    offers, results = context.Queue(), context.Queue()
    reader = context.Process(target=read_all, args=(offers, results))
    reader.start()

    with nc.Connector("owner") as connector:
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(lambda n: offer_one(connector, offers, n), range(TENSORS)):
                pass
        for _ in range(THREADS):
            offers.put(None)
        problems = [problem for _ in range(TENSORS) if (problem := results.get()) is not None]
        reader.join()
        print(f"{TENSORS} tensors offered and read by {THREADS} threads each, {problems=}")
        two_errors(connector)
    return int(bool(problems) or reader.exitcode != 0)


if __name__ == "__main__":
    sys.exit(main())
