"""Encode, prefill and decode, as processes of their own, and a router in front of them.

Image and video workers encode what a request shows; a prefill worker reads the embeddings and
computes the KV cache, which it writes into a decode worker's memory; that one generates the
tokens. All tensors move over NIXL, and nothing else does. Each answer is compared with what
the same modules give in one process: tokens and logits are equal to the last bit.

Run it with ``make example-pipeline``, or ``python docs/examples/pipeline/main.py``; with
``--kill prefill decode`` one of each dies in the middle of its third request.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import model
import router
import torch
import workers
from messages import Channel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

# What a worker's death makes UCX and NIXL log is raised as errors too, which are shown.
os.environ.setdefault("UCX_LOG_LEVEL", "fatal")
os.environ.setdefault("NIXL_LOG_LEVEL", "FATAL")

# The workers are forks of a process that has imported what takes seconds to import.
PROCESSES = multiprocessing.get_context("forkserver")
ROLES = ("image", "video", "prefill", "decode")
STARTUP = 120.0  # seconds


def make_request(number: int, count: int) -> dict[str, Any]:
    """One to three pictures and films, and a few words."""
    chance = random.Random(number)
    kinds = chance.choices(["image", "video"], [2, 1], k=chance.randint(1, 3))
    return {
        "media": [{"kind": kind, "seed": chance.randrange(1000)} for kind in kinds],
        "prompt": [chance.randrange(model.VOCABULARY) for _ in range(chance.randint(4, 40))],
        "count": count,
    }


def start(script: Callable[[list[str]], None], *arguments: str) -> BaseProcess:
    process = PROCESSES.Process(target=script, args=(list(arguments),), daemon=True)
    process.start()
    return process


def start_workers(
    socket: str, numbers: dict[str, int], kill: list[str], metrics: int | None
) -> dict[str, BaseProcess]:
    started: dict[str, BaseProcess] = {}
    for role, number in numbers.items():
        for i in range(number):
            name = f"{role}-{i}"
            more = ["--dies-at", "3"] if role in kill and i == 0 else []
            if metrics is not None:
                more += ["--metrics-port", str(metrics + len(started))]
            started[name] = start(
                workers.main, "--router", socket, "--role", role, "--name", name, *more
            )
    return started


async def ask(
    channel: Channel, requests: list[dict[str, Any]], in_flight: int
) -> list[dict[str, Any]]:
    """The answers, in order; `in_flight` requests at a time."""
    slots = asyncio.Semaphore(in_flight)
    columns = ("[progress.description]{task.description}", BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn()) as progress:
        bar = progress.add_task("Answering", total=len(requests))

        async def one(request: dict[str, Any]) -> dict[str, Any]:
            async with slots:
                answer: dict[str, Any] = await channel.call("answer", **request)
            progress.advance(bar)
            return answer

        return await asyncio.gather(*[one(request) for request in requests])


def compare(requests: list[dict[str, Any]], answers: list[dict[str, Any]]) -> int:
    """How many answers are not what one process gives."""
    torch.set_num_threads(1)  # as in the workers: another number may sum in another order
    whole = model.Whole()
    wrong = 0
    for request, answer in zip(requests, answers, strict=True):
        tokens, logits = whole.answer(**request)
        right = tokens == answer["tokens"] and torch.equal(logits, torch.tensor(answer["logits"]))
        wrong += not right
    return wrong


def show(
    report: list[dict[str, Any]], answers: list[dict[str, Any]], wrong: int, elapsed: float
) -> None:
    table = Table("worker", "requests", "failed", title="Encode, prefill, decode over NIXL")
    for worker in report:
        died = "  died" if worker["lost"] else ""
        table.add_row(worker["name"], str(worker["requests"]), f"{worker['failures']}{died}")
    console = Console()
    console.print(table)
    retried = [answer for answer in answers if answer["failures"]]
    for answer in retried:
        for failure in answer["failures"]:
            console.print(f"Retried: {failure}", markup=False, soft_wrap=True)
    tokens = sum(len(answer["tokens"]) for answer in answers)
    console.print(f"{len(answers)} requests, {len(retried)} retried")
    console.print(f"{tokens} tokens in {elapsed:.2f} s")
    console.print(f"{len(answers) - wrong} answers equal to a single process's, {wrong} not")


async def run(socket: str, options: argparse.Namespace, count: int) -> int:
    channel = await Channel.connect(socket)
    running = asyncio.create_task(channel.run())
    await asyncio.wait_for(channel.call("wait_for_workers", count=count), STARTUP)
    requests = [make_request(number, options.tokens) for number in range(options.requests)]
    began = time.perf_counter()
    answers = await ask(channel, requests, options.in_flight)
    elapsed = time.perf_counter() - began
    report = await channel.call("report")
    await channel.call("stop")
    await running
    wrong = compare(requests, answers)
    show(report, answers, wrong, elapsed)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16, help="tokens to generate for each")
    parser.add_argument(
        "--kill", nargs="+", choices=ROLES, default=[], help="one of each dies in its third request"
    )
    parser.add_argument(
        "--metrics", type=int, metavar="PORT", help="each worker exposes its own from this port on"
    )
    for role in ROLES:
        parser.add_argument(f"--{role}", type=int, default=2, help="how many of these workers")
    options = parser.parse_args()
    numbers = {role: getattr(options, role) for role in ROLES}
    PROCESSES.set_forkserver_preload(["torch", "nixl_connect"])

    with tempfile.TemporaryDirectory() as folder:
        socket = str(Path(folder, "router"))
        started = start_workers(socket, numbers, options.kill, options.metrics)
        started["router"] = start(router.main, "--socket", socket)
        try:
            wrong = asyncio.run(run(socket, options, len(started) - 1))
            for name, process in started.items():
                process.join()
                killed = name in [f"{role}-0" for role in options.kill]
                assert process.exitcode == (-signal.SIGKILL if killed else 0), name
        finally:
            for process in started.values():
                process.kill()
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
