"""Starts worker processes as forks of one that has imported what they need.

To start an interpreter and import takes longer than most tests; on an emulated machine ten seconds.
The process that is forked has one thread and has not touched UCX, so that its children are as good
as fresh ones: each has arguments, an environment and standard streams of its own.

The two ends talk over a Unix socket, a message for each worker: JSON, with the worker's standard
streams and a pipe on which its exit status arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import _nixl_connect_replace

MODULES = (
    *("asyncio", "concurrent.futures.thread", "importlib.metadata", "json", "numpy.random"),
    *("nixl_connect", "nixl_connect._core"),
)
LIMIT = 1 << 26  # bytes of a line


class Forked:
    """What `asyncio.subprocess.Process` is, of a worker that is not our child."""

    def __init__(
        self,
        pid: int,
        stdin: asyncio.StreamWriter,
        stdout: asyncio.StreamReader,
        ended: asyncio.StreamReader,
    ) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.returncode: int | None = None
        self._ended = asyncio.create_task(self._wait(ended))

    async def _wait(self, ended: asyncio.StreamReader) -> int:
        # Nothing where the launcher itself has ended.
        status = await ended.read()
        self.returncode = os.waitstatus_to_exitcode(int(status or b"9"))
        return self.returncode

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        # It may have ended, and nobody has waited for it yet.
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Launcher:
    """The process that is forked, as those see it that want workers."""

    def __init__(self, imports: Sequence[str] = ()) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *imports],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    async def start(
        self, command: list[str], environment: dict[str, str], stderr: int = 2
    ) -> Forked:
        """Of a script with its arguments, in this environment and no other."""
        stdin, to_stdin = os.pipe()
        from_stdout, stdout = os.pipe()
        from_status, status = os.pipe()
        message = {"command": command, "environment": environment}
        loop = asyncio.get_running_loop()
        theirs = [stdin, stdout, stderr, status]
        pid = await loop.run_in_executor(None, self._fork, json.dumps(message).encode(), theirs)
        for descriptor in (stdin, stdout, status):
            os.close(descriptor)
        protocol = asyncio.streams.FlowControlMixin
        transport, made = await loop.connect_write_pipe(protocol, os.fdopen(to_stdin, "wb"))
        writer = asyncio.StreamWriter(transport, made, None, loop)
        return Forked(pid, writer, await _reader(from_stdout), await _reader(from_status))

    def _fork(self, message: bytes, descriptors: list[int]) -> int:
        with self._lock:
            socket.send_fds(self._socket, [len(message).to_bytes(4, "little")], descriptors)
            self._socket.sendall(message)
            return int.from_bytes(self._socket.recv(4, socket.MSG_WAITALL), "little")

    def stop(self) -> None:
        self._socket.close()
        self._process.wait()


async def _reader(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(LIMIT)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb")
    )
    return reader


def _request(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    header, descriptors, _, _ = socket.recv_fds(connection, 4, 4)
    if not header:
        return None
    size = int.from_bytes(header, "little")
    return json.loads(connection.recv(size, socket.MSG_WAITALL)), descriptors


def _reap(statuses: dict[int, int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
            descriptor = statuses.pop(ended[0])
            # Nobody reads it where the test has ended.
            with contextlib.suppress(BrokenPipeError):
                os.write(descriptor, str(ended[1]).encode())
            os.close(descriptor)


def _launch(connection: socket.socket) -> dict[str, Any] | None:
    """What to run, in a child; None, when nobody wants any more."""
    woken, wakes = os.pipe()
    for end in (woken, wakes):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    statuses: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([connection, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap(statuses)
        if connection not in ready:
            continue
        asked = _request(connection)
        if asked is None:
            return None
        request, (*streams, status) = asked
        if (pid := os.fork()) == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            kept = [woken, wakes, status, connection.detach(), *streams, *statuses.values()]
            for descriptor in kept:
                os.close(descriptor)
            return request
        statuses[pid] = status
        for stream in streams:
            os.close(stream)
        connection.sendall(pid.to_bytes(4, "little"))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path.insert(0, str(Path(__file__).parent))
    # Nothing of that is garbage, now or in a worker: to look takes seconds by emulation.
    gc.disable()
    for module in (*MODULES, *sys.argv[2:]):
        import_module(module)
    gc.freeze()
    request = _launch(socket.socket(fileno=int(sys.argv[1])))
    if request is None:
        return
    gc.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    _nixl_connect_replace.start()
    sys.argv = request["command"]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
