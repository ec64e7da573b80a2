"""The serving side of ``nixl-connect bench``, as the measuring side reaches it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
from collections.abc import AsyncIterator
from typing import Any

from ._process import child
from .bench_work import LONGEST_LINE, PeerError

__all__ = ["Child", "Lines", "Server"]

_CONNECT_TIMEOUT = 10.0


class Server:
    """`serve` on a host."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.name: str = f"{host}:{port}"

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[Lines]:
        try:
            connecting = asyncio.open_connection(self.host, self.port, limit=LONGEST_LINE)
            reader, writer = await asyncio.wait_for(connecting, _CONNECT_TIMEOUT)
        except (OSError, asyncio.TimeoutError) as error:
            raise PeerError(
                f"{self.host} cannot be reached at port {self.port} ({_why(error)}): "
                "does `nixl-connect bench serve --host ADDRESS` run there, with an address that "
                "leads here?"
            ) from error
        try:
            yield Lines(reader, writer)
        finally:
            writer.close()


def _why(error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number is not None and number > 0:
        return os.strerror(number)
    if isinstance(error, asyncio.TimeoutError):
        return f"no answer in {_CONNECT_TIMEOUT:g} s, as behind a firewall"
    return str(getattr(error, "strerror", None) or error)


class Child:
    """`serve` in a process of its own, which ends with this."""

    name: str = "this host"

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[Lines]:
        serving = await asyncio.create_subprocess_exec(
            *child(
                # A terminal's Ctrl-C is for all of its processes; this one goes with its parent.
                "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"
                "from nixl_connect.commands.bench_serve import main; main()"
            ),
            stdout=asyncio.subprocess.PIPE,
        )
        assert serving.stdout is not None
        try:
            line = await serving.stdout.readline()
            if not line:
                raise PeerError(f"the serving process ended with status {await serving.wait()}")
            async with Server("127.0.0.1", int(line.split()[-1])).connected() as lines:
                yield lines
        finally:
            if serving.returncode is None:
                serving.terminate()
            await serving.wait()


class Lines:
    """JSON lines to and from the other side; answers find their questions by number."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._gone = False

    async def ask(self, **question: Any) -> Any:
        if self._gone:
            raise PeerError("the serving side has gone")
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._writer.write(json.dumps({"number": number, **question}).encode() + b"\n")
        return await answer

    async def listen(self) -> None:
        """Until the other side has gone: then all that wait get an error."""
        try:
            while line := await self._reader.readline():
                answer = json.loads(line)
                future = self._answers.pop(answer["number"])
                if future.done():
                    continue
                if "error" in answer:
                    future.set_exception(PeerError(answer["error"]))
                else:
                    future.set_result(answer.get("value"))
        finally:
            self._gone = True
            for future in self._answers.values():
                if not future.done():
                    future.set_exception(PeerError("the serving side has gone"))
