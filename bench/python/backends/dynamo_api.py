"""Libraries with the API of dynamo.nixl_connect: this one, Dynamo's, and the null backend."""

from __future__ import annotations

import base64
import importlib
from typing import Any

from backends.memory import Buffer, described

STYLE = "asyncio"

library: Any = None
options: dict[str, Any] = {}
as_bytes = False
"""Whether metadata travels as bytes, which this library alone has."""


def configure(name: str, wire: bool, **connector_options: Any) -> None:
    global library, as_bytes
    library = importlib.import_module(name)
    as_bytes = wire
    options.update(connector_options)


class Offer:
    def __init__(self, operation: Any) -> None:
        self.operation = operation
        self.message: Any
        if as_bytes:
            # As text, for the channel is JSON.
            self.message = base64.b64encode(operation.wire()).decode()
        else:
            self.message = operation.metadata().model_dump()

    async def ended(self) -> None:
        await self.operation.wait_for_completion()

    def release(self) -> None:
        self.operation.__exit__(None, None, None)


class Owner:
    def __init__(self, buffers: list[Buffer]) -> None:
        self.hello: dict[str, Any] = {}
        self._connector = library.Connector("owner", **options)
        self._descriptors = [library.Descriptor(described(buffer)) for buffer in buffers]

    @classmethod
    async def start(cls, buffers: list[Buffer]) -> Owner:
        return cls(buffers)

    async def offer(self, slot: int) -> Offer:
        return Offer(await self._connector.create_readable(self._descriptors[slot]))

    async def close(self) -> None:
        """Nothing that all of these libraries have."""


class Mover:
    def __init__(self, buffers: list[Buffer]) -> None:
        self._connector = library.Connector("mover", **options)
        self._descriptors = [library.Descriptor(described(buffer)) for buffer in buffers]

    @classmethod
    async def start(cls, buffers: list[Buffer], hello: dict[str, Any]) -> Mover:
        return cls(buffers)

    async def fetch(self, slot: int, message: Any) -> None:
        metadata: Any
        if as_bytes:
            metadata = base64.b64decode(message)
        else:
            metadata = library.RdmaMetadata.model_validate(message)
        operation = await self._connector.begin_read(metadata, self._descriptors[slot])
        with operation:
            await operation.wait_for_completion()

    async def close(self) -> None:
        """Nothing that all of these libraries have."""
