"""The control channel: requests and replies as JSON lines over one stream.

Any other would do, such as HTTP, gRPC or a message broker: of what the library moves only the
metadata passes here.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

LIMIT = 1 << 24  # bytes in a line
CONNECT_ATTEMPTS = 1000
CONNECT_PAUSE = 0.02  # seconds


class PeerLostError(ConnectionError):
    """The other process ended, or its stream did, before it had replied."""


class PeerFailedError(RuntimeError):
    """The other process replied with an error."""


class Channel:
    """One end of a stream. Each end may call methods of the object that the other serves."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, served: object = None
    ) -> None:
        self.served = served
        self.closed = False
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def connect(cls, path: str, served: object = None) -> Channel:
        """Connect to a socket, which may be made only after this was called."""
        for _ in range(CONNECT_ATTEMPTS):
            try:
                return cls(*await asyncio.open_unix_connection(path, limit=LIMIT), served)
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(CONNECT_PAUSE)
        raise PeerLostError(f"nobody listens at {path}")

    def close(self) -> None:
        self._writer.close()

    async def run(self) -> None:
        """Pass on what arrives, until the stream ends."""
        try:
            async for line in self._reader:
                message = json.loads(line)
                if "method" in message:
                    task = asyncio.create_task(self._answer(**message))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                elif (reply := self._replies.pop(message["number"], None)) is not None:
                    if "error" in message:
                        reply.set_exception(PeerFailedError(message["error"]))
                    else:
                        reply.set_result(message["result"])
        except ConnectionError:
            pass
        finally:
            self.closed = True
            self.close()
            for task in self._tasks:
                task.cancel()
            for reply in self._replies.values():
                reply.set_exception(PeerLostError("the other process is gone"))

    async def call(self, method: str, **arguments: Any) -> Any:
        """Have the other end call a method; returns its result, which is JSON.

        Raises `PeerFailedError` and `PeerLostError`.
        """
        if self.closed:
            raise PeerLostError("the other process is gone")
        number = next(self._numbers)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        self._send(number=number, method=method, arguments=arguments)
        try:
            return await reply
        finally:
            self._replies.pop(number, None)

    async def _answer(self, number: int, method: str, arguments: dict[str, Any]) -> None:
        try:
            result = await getattr(self.served, method)(**arguments)
        except Exception as error:
            self._send(number=number, error=f"{type(error).__name__}: {error}")
        else:
            self._send(number=number, result=result)

    def _send(self, **message: Any) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")
