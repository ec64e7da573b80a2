"""Encode, prefill and decode workers of Dynamo's kind: endpoints of its runtime, its import.

``python workers.py --role prefill --name prefill-2`` adds one to those that run. What moves tensors
is `dynamo.nixl_connect`: Dynamo's own, or this library where ``NIXL_CONNECT_REPLACE_DYNAMO=1`` is
set. The code is the same for both.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

# UCX takes every network interface that it finds; this demonstration stays on this machine.
os.environ.setdefault("UCX_NET_DEVICES", "lo")
sys.path.append(str(Path(__file__).parents[1] / "pipeline"))

import dynamo.nixl_connect as nixl_connect
import model
import torch
from dynamo.runtime import DistributedRuntime, dynamo_worker

NAMESPACE = "nixl_connect_example"
TIMEOUT = 20.0  # seconds that any operation may take; Dynamo's own has no deadlines

Result = TypeVar("Result")
Message = dict[str, Any]


def read_metadata(message: Message) -> nixl_connect.RdmaMetadata:
    return nixl_connect.RdmaMetadata.model_validate(message)


async def completed(operation: Any) -> None:
    await asyncio.wait_for(operation.wait_for_completion(), TIMEOUT)


class Worker:
    """What all have: a connector, a thread for the model."""

    def __init__(self, name: str) -> None:
        self._name = name
        torch.set_num_threads(1)
        self.connector = nixl_connect.Connector(name)
        self._model_thread = ThreadPoolExecutor(1)

    async def start(self) -> None:
        """Made before requests come: the agent."""
        await self.connector._create_connection()

    async def compute(self, function: Callable[..., Result], *arguments: Any) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._model_thread, function, *arguments)

    def generate(self, request: Message) -> AsyncIterator[Message]:
        raise NotImplementedError

    async def was_used(self, offer: Any) -> bool:
        """False where who was to use it was lost, and nobody waits for this worker's answer."""
        try:
            await completed(offer)
        except Exception as error:
            print(f"{self._name}: {type(error).__name__}: {error}", file=sys.stderr)
            return False
        return True


class EncodeWorker(Worker):
    """Says where the embeddings may be read, and ends when they have been."""

    def __init__(self, name: str, kind: str) -> None:
        super().__init__(name)
        self._kind = kind
        self._model = model.vision_encoder(kind)

    async def generate(self, request: Message) -> AsyncIterator[Message]:
        embeddings = await self.compute(self._embed, request["seed"])
        descriptor = nixl_connect.Descriptor(embeddings)
        with await self.connector.create_readable(descriptor) as readable:
            metadata = readable.metadata().model_dump()
            yield {"metadata": metadata, "shape": list(embeddings.shape)}
            await self.was_used(readable)

    @torch.inference_mode()
    def _embed(self, seed: int) -> torch.Tensor:
        embeddings: torch.Tensor = self._model(model.draw(self._kind, seed))
        return embeddings


class PrefillWorker(Worker):
    """Reads embeddings, computes the KV cache and writes it to the decode worker."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._model = model.language_model()

    async def generate(self, request: Message) -> AsyncIterator[Message]:
        embeddings = await asyncio.gather(*[self._read(offer) for offer in request["embeddings"]])
        length = sum(map(len, embeddings)) + len(request["prompt"])
        cache = model.new_cache(length)
        logits = await self.compute(self._model.prefill, embeddings, request["prompt"], cache)
        remote = read_metadata(request["cache"])
        with await self.connector.begin_write(pieces(cache, length, logits), remote) as write:
            await completed(write)
        yield {}

    async def _read(self, offer: Message) -> torch.Tensor:
        embeddings = torch.empty(offer["shape"])
        descriptor = nixl_connect.Descriptor(embeddings)
        remote = read_metadata(offer["metadata"])
        with await self.connector.begin_read(remote, descriptor) as read:
            await completed(read)
        return embeddings


class DecodeWorker(Worker):
    """Says where a KV cache may be written, and goes on from it when it has been."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._model = model.language_model()

    async def generate(self, request: Message) -> AsyncIterator[Message]:
        length, count = request["length"], request["count"]
        cache, logits = model.new_cache(length + count), torch.empty(model.VOCABULARY)
        with await self.connector.create_writable(pieces(cache, length, logits)) as writable:
            yield {"metadata": writable.metadata().model_dump()}
            if not await self.was_used(writable):
                return
        arguments = logits, cache, length, count
        tokens, logits = await self.compute(self._model.decode, *arguments)
        yield {"tokens": tokens, "logits": logits.tolist()}


def pieces(cache: torch.Tensor, length: int, logits: torch.Tensor) -> list[nixl_connect.Descriptor]:
    """Keys and values of `length` positions in each layer, and the logits: moved as one."""
    parts = [part[:length] for layer in cache for part in layer] + [logits]
    return [nixl_connect.Descriptor(part) for part in parts]


ROLES: dict[str, Callable[[str], Worker]] = {
    "image": lambda name: EncodeWorker(name, "image"),
    "video": lambda name: EncodeWorker(name, "video"),
    "prefill": PrefillWorker,
    "decode": DecodeWorker,
}


@dynamo_worker()
async def serve(runtime: DistributedRuntime, role: str, name: str) -> None:
    worker = ROLES[role](name)
    await worker.start()
    print(f"{name} serves with {nixl_connect.__name__}", flush=True)
    await runtime.endpoint(f"{NAMESPACE}.{role}.generate").serve_endpoint(worker.generate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--role", required=True, choices=ROLES)
    parser.add_argument("--name", required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for who has started this
    asyncio.run(serve(options.role, options.name))


if __name__ == "__main__":
    main()
