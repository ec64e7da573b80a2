"""Dynamo's own workers, in a process driven by JSON lines: the code that its wheels have, with
stand-ins for the engines and real transfers.

``send`` has a caller of a kind offer embeddings, and replies what it sends to the next worker;
``receive`` has the next worker's code read that, and compares; ``sent`` waits for the sender's end.
``kinds`` says which there are in this version. With ``NIXL_CONNECT_REPLACE_DYNAMO=1`` they run on this
library.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import engines
import torch

engines.install()

SHAPE = (1, 7, 384)


def embeddings(seed: int) -> torch.Tensor:
    """What an encoder makes of a picture."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).to(torch.float16)


def load(name: str) -> Any:
    """One of Dynamo's modules; None if this version has none that uses the library."""
    path = name.replace(".", "/") + ".py"
    files = [file for folder in sys.path if (file := Path(folder, path)).exists()]
    if not files or "nixl_connect" not in files[0].read_text():
        return None
    return importlib.import_module(name)


class Kind:
    """A pair of callers: one that offers, one that reads."""

    module: Any

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[Any]] = []

    async def send(self, tensor: torch.Tensor) -> Any:
        raise NotImplementedError

    async def receive(self, payload: Any) -> torch.Tensor:
        raise NotImplementedError

    async def sent(self) -> None:
        for task in self.tasks:
            await task
        self.tasks.clear()

    def go_on(self, call: Any) -> None:
        self.tasks.append(asyncio.ensure_future(call))

    async def first_of(self, generator: AsyncIterator[Any]) -> Any:
        """What a worker's generator yields first; the rest of it goes on."""
        first = await anext(generator)

        async def rest() -> None:
            async for _ in generator:
                pass

        self.go_on(rest())
        return first


class Loaded(dict[str, Any]):
    """What a file has, at once or awaited: versions differ."""

    def __await__(self) -> Generator[Any, Any, Loaded]:
        return self
        yield


class TensorRt(Kind):
    """`dynamo.trtllm`: the encode helper of the encode and prefill workers."""

    module = load("dynamo.trtllm.encode_helper")

    def __init__(self) -> None:
        super().__init__()
        self.helper = self.module.EncodeHelper
        self.connector = self.module.nixl_connect.Connector()

    async def send(self, tensor: torch.Tensor) -> Any:
        paths = (None, None, ["embeddings.pt"])
        processor = SimpleNamespace(
            extract_prompt_and_media=lambda messages: paths,
            extract_prompt_and_media_from_request=lambda request: paths,
            load_tensor_from_path_or_url=lambda path: Loaded(mm_embeddings=tensor, n=3),
        )
        flow = getattr(self.helper, "process_encode_request", None)
        flow = flow or self.helper.process_embedding_request
        return await self.first_of(flow({"messages": []}, processor, self.connector))

    async def receive(self, payload: Any) -> torch.Tensor:
        got = await self.helper.read_embeddings_from_encode_response(payload, self.connector)
        assert got["n"] == 3
        return got["mm_embeddings"]


class Sglang(Kind):
    """`dynamo.sglang`: the multimodal encode worker and the worker that it calls."""

    module = load("dynamo.sglang.request_handlers.multimodal.worker_handler")
    # Later versions go through `Embeddings`.

    def __init__(self) -> None:
        super().__init__()
        encoder = importlib.import_module(
            "dynamo.sglang.request_handlers.multimodal.encode_worker_handler"
        )
        self.encoder = encoder
        self.handler = encoder.MultimodalEncodeWorkerHandler.__new__(
            encoder.MultimodalEncodeWorkerHandler
        )
        self.handler.image_token_id = 9
        self.handler.served_model_name = "model"
        self.handler.vision_model = None

        async def load_image(url: str) -> None:
            """The picture is the model's."""

        self.handler.image_loader = SimpleNamespace(load_image=load_image)
        self.handler.image_processor = lambda **_: {}
        self.processor = self.module.EmbeddingsProcessor()
        self.is_ready = False

    async def start(self) -> None:
        if not self.is_ready:
            await self.handler.async_init(None)
            await self.processor.initialize()
            self.is_ready = True

    async def send(self, tensor: torch.Tensor) -> Any:
        await self.start()
        sent: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def round_robin(request: str) -> AsyncIterator[str]:
            sent.set_result(request)

            async def answers() -> AsyncIterator[str]:
                yield "answer"

            return answers()

        async def encode(urls: list[str]) -> tuple[None, torch.Tensor]:
            return None, tensor

        self.encoder.encode_image_embeddings = lambda **_: tensor
        self.handler.encoder = SimpleNamespace(_encode=encode)
        self.handler.pd_worker_client = SimpleNamespace(round_robin=round_robin)
        request = {
            "request": {
                "token_ids": [1, 9, 2],
                "stop_conditions": {},
                "sampling_options": {},
            },
            "multimodal_input": {"image_url": "http://picture"},
        }
        protocol = self.module.SglangMultimodalRequest

        async def generate() -> None:
            async for _ in self.handler.generate(protocol.model_validate(request), None):
                pass

        self.go_on(generate())
        return await sent

    async def receive(self, payload: Any) -> torch.Tensor:
        await self.start()
        request = self.module.SglangMultimodalRequest.model_validate_json(payload)
        got, _ = await self.processor.process_embeddings(request)
        return got


class Vllm(Kind):
    """`dynamo.vllm`: the multimodal encode worker and the prefill and decode worker after it."""

    module = load("dynamo.vllm.multimodal_handlers.worker_handler")
    # Later versions go through `Embeddings`.
    if not hasattr(module, "MultimodalPDWorkerHandler"):
        module = None

    def __init__(self) -> None:
        super().__init__()
        self.encoder = importlib.import_module(
            "dynamo.vllm.multimodal_handlers.encode_worker_handler"
        )
        for module in (self.encoder, self.module):
            if hasattr(module, "TRANSFER_LOCAL"):
                module.TRANSFER_LOCAL = False  # what its environment variable does
        self.handler = self.encoder.EncodeWorkerHandler.__new__(self.encoder.EncodeWorkerHandler)
        vars(self.handler).update(
            model="model",
            vision_encoder=None,
            projector=None,
            cached_embeddings={},
            readables=[],
            _accumulated_time=0,
            _processed_requests=0,
        )

        async def load_image(url: str) -> None:
            """The picture is the model's."""

        self.handler.image_loader = SimpleNamespace(load_image=load_image)
        self.handler.image_processor = lambda **_: {"pixel_values": torch.zeros(2)}
        self.prefill = self.module.MultimodalPDWorkerHandler.__new__(
            self.module.MultimodalPDWorkerHandler
        )
        vars(self.prefill).update(
            config=SimpleNamespace(model="model", ec_consumer_mode=False),
            EMBEDDINGS_DTYPE=torch.float16,
            EMBEDDINGS_DEVICE="cpu",
            enable_disagg=False,
            decode_worker_client=None,
        )
        self.is_ready = False

    async def start(self) -> None:
        if not self.is_ready:
            await self.handler.async_init(None)
            await self.prefill.async_init(None)
            self.is_ready = True

    async def send(self, tensor: torch.Tensor) -> Any:
        await self.start()
        sent: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def round_robin(request: str, **_: Any) -> AsyncIterator[Any]:
            sent.set_result(request)

            async def answers() -> AsyncIterator[Any]:
                for _ in ():
                    yield None

            return answers()

        self.encoder.encode_image_embeddings = lambda **_: tensor
        self.handler.pd_worker_client = SimpleNamespace(round_robin=round_robin)
        group = {"multimodal_input": {"image_url": "http://picture"}}
        request = {
            "engine_prompt": {"prompt_token_ids": [1, 2]},
            "sampling_params": {},
            "request_id": "1",
            **group,
            "multimodal_inputs": [group],
        }

        async def generate() -> None:
            async for output in self.handler.generate(request, None):
                if not sent.done():
                    sent.set_result(output)
            for readable in self.handler.readables:
                await readable.wait_for_completion()

        self.go_on(generate())
        return await sent

    async def receive(self, payload: Any) -> torch.Tensor:
        await self.start()
        got: list[torch.Tensor] = []

        def construct(*_: Any, image_embeds: torch.Tensor, **__: Any) -> dict[str, torch.Tensor]:
            got.append(image_embeds)
            return {"image": image_embeds}

        async def nothing(**_: Any) -> AsyncIterator[Any]:
            for _ in ():
                yield None

        self.module.construct_mm_data = construct
        self.prefill.engine_client = SimpleNamespace(generate=nothing)
        async for _ in self.prefill.generate(payload, None):
            pass
        return got[0]


class Embeddings(Kind):
    """`dynamo.common.multimodal.embedding_transfer`, which all engines' workers use since 1.0."""

    module = load("dynamo.common.multimodal.embedding_transfer")

    def __init__(self) -> None:
        super().__init__()
        self.sender = self.module.NixlReadEmbeddingSender()
        # As it is, but for 8 GiB of buffers.
        self.receiver = self.module.NixlReadEmbeddingReceiver(
            embedding_hidden_size=1024, max_item_mm_token=64, max_items=2
        )

    async def send(self, tensor: torch.Tensor) -> Any:
        request, sent = await self.sender.send_embeddings(tensor)
        self.go_on(sent)
        return request.model_dump()

    async def receive(self, payload: Any) -> torch.Tensor:
        request = self.module.TransferRequest.model_validate(payload)
        number, got = await self.receiver.receive_embeddings(request)
        got = got.clone()
        self.receiver.release_tensor(number)
        return got


class KeywordArguments(Kind):
    """`dynamo.common.multimodal.mm_kwargs_transfer`: from the frontend to the workers."""

    module = load("dynamo.common.multimodal.mm_kwargs_transfer")

    def __init__(self) -> None:
        super().__init__()
        self.sender = self.module.MmKwargsNixlSender()
        self.receiver = self.module.MmKwargsNixlReceiver(max_item_bytes=1 << 16, pool_size=2)

    async def send(self, tensor: torch.Tensor) -> Any:
        spec, item = await self.sender._encode_item(0, tensor.numpy().tobytes())
        self.go_on(self.sender.cleanup([item]))
        return self.sender._assemble_extra_args("image", [spec], ["hash"])["mm_kwargs_nixl"]

    async def receive(self, payload: Any) -> torch.Tensor:
        metadata = self.module.MmKwargsTransferMetadata.model_validate(payload)
        (got,) = (await self.receiver.receive(metadata))["__pickled_kwargs_item__"]
        return torch.frombuffer(bytearray(got), dtype=torch.float16).view(SHAPE)


class Omni(Kind):
    """`dynamo.vllm.omni`: between the stages of an omni model; blocking, with a loop of its own."""

    module = load("dynamo.vllm.omni.connectors.nixl_connector")

    def __init__(self) -> None:
        super().__init__()
        self.connector = self.module.DynamoOmniNixlConnector({})

    async def send(self, tensor: torch.Tensor) -> Any:
        put = asyncio.to_thread(self.connector.put, "0", "1", "request", tensor)
        good, _, metadata = await put
        assert good

        async def emptied() -> None:
            while self.connector._pending:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

        self.go_on(emptied())
        return metadata

    async def receive(self, payload: Any) -> torch.Tensor:
        got = await asyncio.to_thread(self.connector.get, "0", "1", "request", payload)
        assert got is not None
        return got[0]


class Media(Kind):
    """`dynamo.common.utils.media_nixl`: the frontend, in Rust, is the passive side.

    It has NIXL itself: it registers what it has decoded, and sends all that its agent has. What it
    writes was read in Dynamo 1.6.1 (lib/llm/src/preprocessor/media/rdma.rs).
    """

    module = load("dynamo.common.utils.media_nixl")

    def __init__(self) -> None:
        super().__init__()
        import dynamo.nixl_connect

        self.connector = dynamo.nixl_connect.Connector()
        self.frontend: Any = None
        self.kept: list[torch.Tensor] = []

    async def send(self, tensor: torch.Tensor) -> Any:
        import base64
        import uuid
        import zlib

        from nixl._api import nixl_agent

        if self.frontend is None:
            self.frontend = nixl_agent(f"media-loader-{uuid.uuid4()}")
        data = tensor.view(torch.uint8).clone()
        registered = self.frontend.register_memory(data)
        self.kept.append(data)
        blob = zlib.compress(self.frontend.get_agent_metadata())

        async def is_read() -> None:
            # The frontend drains what readers notify, and matches none of it.
            while not any(self.frontend.get_new_notifs().values()):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            self.frontend.deregister_memory(registered)

        self.go_on(is_read())
        return {
            "nixl_metadata": "b64:" + base64.b64encode(blob).decode(),
            "nixl_descriptor": {
                "addr": data.data_ptr(),
                "size": data.numel(),
                "mem_type": "Dram",
                "device_id": 0,
            },
            "shape": [*data.shape],
            "dtype": "UINT8",
            "metadata": {"source_fps": 24.0},
        }

    async def receive(self, payload: Any) -> torch.Tensor:
        # It takes the last axis for colours, and leaves out what comes after three.
        payload["shape"] = [-(-payload["nixl_descriptor"]["size"] // 3), 3]
        got, metadata = await self.module.read_decoded_media_via_nixl(
            self.connector, payload, return_metadata=True
        )
        assert metadata == {"source_fps": 24.0}
        return torch.from_numpy(got.copy()).flatten().view(torch.float16).view(SHAPE)


KINDS: dict[str, type[Kind]] = {
    "trtllm": TensorRt,
    "sglang": Sglang,
    "vllm": Vllm,
    "embeddings": Embeddings,
    "keyword arguments": KeywordArguments,
    "omni": Omni,
    "media": Media,
}


class Caller:
    """Answers requests, all at once."""

    def __init__(self) -> None:
        self.made: dict[str, Kind] = {}

    def of(self, kind: str) -> Kind:
        if kind not in self.made:
            self.made[kind] = KINDS[kind]()
        return self.made[kind]

    async def kinds(self, _: dict[str, Any]) -> dict[str, Any]:
        import dynamo.nixl_connect

        there = [name for name, kind in KINDS.items() if kind.module is not None]
        return {"kinds": there, "library": dynamo.nixl_connect.__name__}

    async def send(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"payload": await self.of(request["kind"]).send(embeddings(request["seed"]))}

    async def receive(self, request: dict[str, Any]) -> dict[str, Any]:
        got = await self.of(request["kind"]).receive(request["payload"])
        return {"right": torch.equal(got.view(SHAPE), embeddings(request["seed"]))}

    async def sent(self, request: dict[str, Any]) -> dict[str, Any]:
        await self.of(request["kind"]).sent()
        return {}

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        tasks = set()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            task = asyncio.create_task(self.reply(json.loads(line)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def reply(self, request: dict[str, Any]) -> None:
        try:
            answer = await getattr(self, request["do"])(request)
        except Exception as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        OUTPUT.write(json.dumps({"number": request["number"], **answer}) + "\n")
        OUTPUT.flush()


# Whatever else Dynamo and NIXL print goes to standard error.
OUTPUT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

if __name__ == "__main__":
    asyncio.run(Caller().serve())
    # Bare NIXL may crash when a process exits.
    OUTPUT.flush()
    os._exit(0)
