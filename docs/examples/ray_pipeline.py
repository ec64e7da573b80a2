"""The pipeline of ``pipeline/`` as Ray actors.

Ray places the workers, calls them and carries the metadata; this library moves the tensors.
No tensor passes through Ray's object store, and no worker waits for another's copy there. The
workers, the modules and the router are those of ``pipeline/``: a worker's class becomes an
actor as it is, and the router is given the actor's methods to call.

It grows past one machine by what is said to Ray alone: `ray.init` with a cluster's address
instead of loopback, ``num_gpus`` in the actors' options for models on GPUs, whose tensors
descriptors take as they are, ``pipeline`` among the ``py_modules`` of the runtime environment,
and no ``UCX_NET_DEVICES``, so that UCX takes the RDMA NICs. Metadata says how to reach the
agent that made it, so nobody needs to know where Ray has put whom. When an actor dies, reading
what it had offered fails with an error, and the router tries again with another.

Run it with ``python docs/examples/ray_pipeline.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "pipeline"))
# Ray's processes inherit these. The demonstration stays on this machine: Ray reports nothing to
# its makers, and takes loopback for an address, which on Linux it does only when told that
# there is no cluster; UCX takes loopback too.
os.environ.update(
    PYTHONPATH=sys.path[0],
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_USAGE_STATS_ENABLED="0",
    UCX_NET_DEVICES="lo",
)

import ray
from main import compare, make_request
from messages import PeerFailedError, PeerLostError
from ray.exceptions import RayActorError, RayTaskError
from router import Router
from workers import DecodeWorker, EncodeWorker, PrefillWorker

ROLES: dict[str, tuple[type, dict[str, Any]]] = {
    "image": (EncodeWorker, {"kind": "image"}),
    "video": (EncodeWorker, {"kind": "video"}),
    "prefill": (PrefillWorker, {}),
    "decode": (DecodeWorker, {}),
}


def start_actors(count: int) -> dict[str, tuple[str, Any]]:
    """Role and actor by name."""
    actors: dict[str, tuple[str, Any]] = {}
    for role, (worker, arguments) in ROLES.items():
        for i in range(count):
            actor: Any = ray.remote(worker).options(num_cpus=0, max_concurrency=64)
            actors[f"{role}-{i}"] = role, actor.remote(name=f"{role}-{i}", **arguments)
    return actors


def call(actor: Any) -> Callable[..., Awaitable[Any]]:
    """How the router calls an actor; Ray's errors become those that it knows."""

    async def send(method: str, **arguments: Any) -> Any:
        try:
            return await getattr(actor, method).remote(**arguments)
        except RayTaskError as error:
            raise PeerFailedError(str(error.cause)) from None
        except RayActorError:
            raise PeerLostError("the actor is gone") from None

    return send


async def serve(count: int, requests: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Router]:
    router = Router()
    for name, (role, actor) in start_actors(count).items():
        await router.join(role, name, call(actor))
    answers = await asyncio.gather(*[router.answer(**request) for request in requests])
    return answers, router


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--workers", type=int, default=1, help="of each kind")
    options = parser.parse_args()
    requests = [make_request(number, count=16) for number in range(options.requests)]

    ray.init(
        _node_ip_address="127.0.0.1",
        include_dashboard=False,
        num_cpus=2,
        object_store_memory=80 << 20,
        logging_level=logging.WARNING,
    )
    try:
        answers, router = asyncio.run(serve(options.workers, requests))
    finally:
        ray.shutdown()
    wrong = compare(requests, answers)
    for worker in router.report():
        print(f"{worker.name}: {worker.requests} requests")
    print(f"{len(answers) - wrong} answers equal to a single process's, {wrong} not")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
