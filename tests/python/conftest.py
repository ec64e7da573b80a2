from __future__ import annotations

import asyncio
import atexit
import functools
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before anything starts UCX, which would take every network interface.
os.environ["UCX_NET_DEVICES"] = "rxe0:1" if "NIXL_CONNECT_TEST_RDMA" in os.environ else "lo"

import gpus
import nixl_connect as nc
from launcher import LIMIT, Forked, Launcher

# Over RDMA verbs and nothing else: see tests/rdma/run.
RDMA = "NIXL_CONNECT_TEST_RDMA" in os.environ
PEER = Path(__file__).with_name("peer.py")
OURS = "nixl_connect"
DYNAMO = "dynamo.nixl_connect"


def found(module: str) -> bool:
    """Without an import, which would bring torch."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


needs_dynamo = pytest.mark.skipif(not found(DYNAMO), reason="needs the package ai-dynamo-runtime")


@functools.cache
def launcher(*imports: str) -> Launcher:
    """One for each set of imports: a fork of a process with torch takes long to start and to end."""
    made = Launcher(imports)
    atexit.register(made.stop)
    return made


def is_read_at_start(variable: str) -> bool:
    return variable.startswith(("LD_", "MALLOC_", "PYTHON")) and variable != "PYTHONPATH"


class Peer:
    """A worker process; see peer.py."""

    def __init__(self, process: asyncio.subprocess.Process | Forked) -> None:
        self.process = process
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, script: Path, *arguments: str, **environment: str) -> Peer:
        """As a fork, unless Python itself has to be started for what it is given."""
        # Standard output is for replies; UCX would write its log there.
        environment = {"NIXL_LOG_LEVEL": "ERROR", "UCX_LOG_FILE": "stderr", **environment}
        if any(map(is_read_at_start, environment)):
            return await cls.execute(sys.executable, str(script), *arguments, **environment)
        command = [str(script), *arguments]
        # What is of Dynamo imports it.
        imports = ("torch",) if DYNAMO in arguments or script.parent != PEER.parent else ()
        return cls(await launcher(*imports).start(command, {**os.environ, **environment}))

    @classmethod
    async def execute(cls, *command: str, **environment: str) -> Peer:
        """By a program that is given the command, such as one that makes a namespace for it."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=LIMIT,
            env={**os.environ, **environment},
        )
        return cls(process)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            reply = json.loads(line)
            self._replies.pop(reply["number"]).set_result(reply)
        for future in self._replies.values():
            if not future.done():
                future.set_exception(EOFError("the peer has ended"))

    async def ask(self, do: str, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        number = id(future)
        self._replies[number] = future
        self.process.stdin.write(
            (json.dumps({"do": do, "number": number, **request}) + "\n").encode()
        )
        await self.process.stdin.drain()
        return await future

    async def stop(self) -> int:
        """Ends the process in order; returns its exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        await self._reader
        return await self.process.wait()


async def eventually(condition: Callable[[], bool]) -> bool:
    """Within ten seconds: figures may be of a moment ago, while an engine is busy."""
    for _ in range(1000):
        if condition():
            return True
        await asyncio.sleep(0.01)
    return False


FEW = os.environ.get("NIXL_CONNECT_TEST_RDMA", "all") != "all"
not_among_few = pytest.mark.skipif(FEW, reason="runs by emulated verbs with RDMA_TESTS=all only")


def few(*values: Any) -> tuple[Any, ...]:
    """All of them; by emulated verbs the first alone, unless all are asked for."""
    return values[:1] if FEW else values


def sized(size: int) -> int:
    """So many bytes, or what takes as long to move by emulated verbs."""
    return max(size >> 6, min(size, 1 << 20)) if RDMA else size


def pytest_runtest_setup(item: pytest.Item) -> None:
    needed = max((mark.args[0] for mark in item.iter_markers("gpus")), default=0)
    if needed > gpus.count():
        pytest.skip(f"needs {needed} CUDA devices, found {gpus.count()}")


StartPeer = Callable[..., Awaitable[Peer]]


@pytest.fixture
async def start_peer() -> AsyncIterator[StartPeer]:
    peers: list[Peer] = []

    async def start(library: str = OURS, script: Path = PEER, **environment: str) -> Peer:
        peer = await Peer.start(script, library, f"peer{len(peers)}", **environment)
        peers.append(peer)
        return peer

    yield start
    for peer in peers:
        if peer.process.returncode is None:
            peer.process.send_signal(signal.SIGCONT)
            await peer.stop()


@pytest.fixture
def connector() -> Iterator[nc.Connector]:
    with nc.Connector("left") as made:
        yield made


@pytest.fixture
def other() -> Iterator[nc.Connector]:
    with nc.Connector("right") as made:
        yield made


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Children get it, also where this process was started without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def run_python(
    code: str, *arguments: str, timeout: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter, whose environment has what is given and what we have."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
        check=False,
    )


def run_forked(
    code: str, *arguments: str, timeout: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """As `run_python`, in a fork of a process that has imported torch."""
    assert not any(map(is_read_at_start, environment))

    async def run() -> subprocess.CompletedProcess[str]:
        with (
            tempfile.NamedTemporaryFile("w+", suffix=".py") as script,
            tempfile.TemporaryFile() as log,
        ):
            script.write(code)
            script.flush()
            command = [script.name, *arguments]
            everything = {**os.environ, **environment}
            process = await launcher("torch").start(command, everything, log.fileno())
            process.stdin.close()
            try:
                stdout = await asyncio.wait_for(process.stdout.read(), timeout)
            except asyncio.TimeoutError:
                process.kill()
                raise
            status = await process.wait()
            log.seek(0)
            stderr = log.read()
        return subprocess.CompletedProcess(command, status, stdout.decode(), stderr.decode())

    return asyncio.run(run())
