"""A worker of this process: its name, and its NIXL agent from the first use to the close."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
import threading
import weakref
from collections.abc import Callable
from functools import cached_property, partial
from types import TracebackType
from typing import NoReturn, SupportsFloat, TypeVar

from . import _asyncio, _core
from ._arguments import core_timeout
from ._default import Default
from ._loaded import loaded_torch
from ._offload import offload
from ._signing import received
from ._wire import RemoteMetadata, is_model, load_models, of_agent
from .connection import Connection
from .errors import from_core
from .stats import ConnectorStats

__all__ = ["Worker", "open_workers", "watch_workers"]

_log = logging.getLogger("nixl_connect")

Self = TypeVar("Self", bound="Worker")


class Worker:
    """What a `Connector` is, apart from the operations that it makes."""

    def __init__(self, worker_id: str, core: _core.Connector, auth_key: bytes | None) -> None:
        self._worker_id = worker_id
        self._hostname = socket.gethostname()
        self._core = core
        self._auth_key = auth_key
        self._shared_connection = Connection(self, core.next_connection_number())
        _open[id(self)] = self
        for watcher in _watchers:
            watcher(self)

    @property
    def name(self) -> str:
        """The worker's name."""
        return self._worker_id

    @property
    def nixl_library(self) -> str:
        """Path of the NIXL library in use; empty before the agent is made."""
        return self._core.nixl_library

    @property
    def hostname(self) -> str:
        """The name of this host."""
        return self._hostname

    @cached_property
    def is_cuda_available(self) -> bool:
        """Whether CUDA has a device here.

        Asking initialises CUDA, after which a forked child cannot use it.
        """
        torch = loaded_torch()
        if torch is not None:
            return bool(torch.cuda.is_available())
        import ctypes

        try:
            cuda = ctypes.CDLL("libcuda.so.1")
        except OSError:
            return False
        count = ctypes.c_int()
        return (
            cuda.cuInit(0) == 0
            and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
            and count.value > 0
        )

    def stats(self) -> ConnectorStats:
        """What the connector has done and holds at this moment.

        Starts nothing, and never waits for longer than a millisecond: while the engine is in
        the middle of a large copy, its figures are those from before the copy.
        """
        return ConnectorStats._of(self._core.stats())

    async def decline(
        self,
        remote_metadata: RemoteMetadata,
        reason: str = "declined",
        *,
        timeout: SupportsFloat | Default | None = Default.TIMEOUT,
    ) -> None:
        """Tell a peer that its offer is not wanted, so that it does not wait for its deadline.

        The peer's operation ends with `RemoteFailedError`, which says the reason. Meant for a
        router that gives up a request, or a reader whose memory does not fit.

        Parameters
        ----------
        remote_metadata
            What the peer's `PassiveOperation.metadata` or `PassiveOperation.wire` returned.
        reason
            For people; up to 127 bytes of ASCII are sent.
        timeout
            Seconds until this fails with `DeadlineExceededError`; as of `create_readable`.

        Raises
        ------
        RejectedMetadataError
            When the metadata is damaged.
        OfferClosedError
            When the offer was used or withdrawn before.
        TransferError
            When the peer could not be told. A peer that does not run this library never can be.
        """
        if not self._core.started:
            await self._started()
        decline = partial(self._decline, remote_metadata, reason, timeout)
        await _ended(await _made(decline, remote_metadata))

    def decline_blocking(
        self,
        remote_metadata: RemoteMetadata,
        reason: str = "declined",
        *,
        timeout: SupportsFloat | Default | None = Default.TIMEOUT,
    ) -> None:
        """As `decline`, for threads without an event loop."""
        self._wait_started()
        _wait_ended(self._decline(remote_metadata, reason, timeout))

    def _decline(
        self, remote_metadata: RemoteMetadata, reason: str, timeout: SupportsFloat | Default | None
    ) -> _core.Connection:
        remote = received(self._auth_key, remote_metadata)
        if not isinstance(reason, str):
            raise TypeError(f"reason: expected str, got {type(reason).__name__}")
        text = reason.encode("utf-8", "replace").decode()
        return self._core.decline(remote, text, core_timeout(timeout))

    async def connect(
        self,
        remote_metadata: RemoteMetadata | str,
        *,
        timeout: SupportsFloat | Default | None = Default.TIMEOUT,
    ) -> None:
        """Connect to a peer, so that the first transfer takes no longer than the next ones.

        Makes this connector's agent and its endpoints to the peer. The offer in `remote_metadata`,
        if there is one, is not used up. If the peer runs this library and the offer is open, the
        peer has answered when this returns; otherwise this side has done all that it can.

        Parameters
        ----------
        remote_metadata
            What the peer's `PassiveOperation.metadata` or `PassiveOperation.wire` returned; or the
            metadata of its agent: `Connection.metadata`, or `RdmaMetadata.nixl_metadata`. With an
            ``auth_key`` it must be signed, and only an operation's metadata is.
        timeout
            Seconds until this fails with `DeadlineExceededError`; as of `create_readable`.

        Raises
        ------
        RejectedMetadataError
            When the metadata is damaged, or not signed.
        TransferError
            When the peer could not be reached or does not answer, or NIXL is missing.
        """
        if not self._core.started:
            await self._started()
        core = await _made(partial(self._connect, remote_metadata, timeout), remote_metadata)
        try:
            await _ended(core)
        finally:
            core.cancel()

    def connect_blocking(
        self,
        remote_metadata: RemoteMetadata | str,
        *,
        timeout: SupportsFloat | Default | None = Default.TIMEOUT,
    ) -> None:
        """As `connect`, for threads without an event loop."""
        self._wait_started()
        _wait_ended(self._connect(remote_metadata, timeout))

    def _connect(
        self, remote_metadata: RemoteMetadata | str, timeout: SupportsFloat | Default | None
    ) -> _core.Connection:
        metadata = received(self._auth_key, of_agent(remote_metadata))
        return self._core.connect(metadata, core_timeout(timeout))

    async def warmup(self) -> None:
        """Make the agent now, so that the first operation need not wait for it.

        May be called again, also after it has failed. `connect` makes the endpoints to a peer too.

        Raises
        ------
        TransferError
            When NIXL is missing or refuses, or the connector is closed.
        """
        await self._started()

    async def initialize(self) -> None:
        """Deprecated: does nothing. `warmup` makes the agent before it is needed."""

    def close(self) -> None:
        """End every operation and give the agent back.

        Operations that have not ended fail with `ConnectorClosedError`; transfers in flight, and
        offers that a peer is using, get up to a second to complete. Memory that a peer on this
        host still uses after that stays alive, and not `released`, until the peer is done. This
        blocks; `aclose` does not. May be called again, from any thread, and in a forked child.
        """
        if not self._core.closed:
            _log.info("%r is closing", self, extra={"connector": self._worker_id})
        self._core.close()
        # One whose closing was interrupted goes on with it, and is waited for at exit.
        _open.pop(id(self), None)

    async def aclose(self) -> None:
        """As `close`, without blocking the event loop."""
        await offload(self.close)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self: Self) -> Self:
        await self._started()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Worker):
            return NotImplemented
        return self._worker_id == other._worker_id

    def __hash__(self) -> int:
        return hash(self._worker_id)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} belongs to this process and cannot be copied or sent: "
            "make one in each process"
        )

    def __repr__(self) -> str:
        state = ", closed" if self._core.closed else ""
        return f"Connector(worker_id={self._worker_id!r}, hostname={self._hostname!r}{state})"

    def __str__(self) -> str:
        return self._worker_id

    async def _create_connection(self) -> Connection:
        """The connector's shared connection, the same at each call; makes the agent."""
        await self._started()
        return self._shared_connection

    @property
    def _registrar_core(self) -> _core.Connector:
        return self._core

    async def _started(self) -> None:
        core = self._core
        if not core.started:
            self._begin_start()
            await _asyncio.wait_for(core.notify_started)
            core.check_started()
            fields = {"connector": self._worker_id}
            _log.info("%r has made its agent, with %s", self, core.nixl_library, extra=fields)

    def _wait_started(self) -> None:
        """As `_started`, blocking; Ctrl-C is heard meanwhile."""
        if not self._core.started:
            self._begin_start()
            self._core.wait_started()

    def _begin_start(self) -> None:
        _close_with_multiprocessing()
        self._core.start()
        load_models()  # Meanwhile, so that the first request need not.


async def _made(
    make: Callable[[], _core.Connection], remote_metadata: RemoteMetadata | str
) -> _core.Connection:
    """What `make` returns, without holding the event loop while much metadata is read."""
    few = is_model(remote_metadata) and len(remote_metadata.descriptors) < _core.MANY_DESCRIPTORS
    # A few bytes may be the metadata of very many pieces.
    return make() if few else await offload(make, _core.Connection.cancel)


async def _ended(core: _core.Connection) -> None:
    await _asyncio.wait_for(partial(core.notify, _core.ENDED), core.forget)
    _raise_failure(core)


def _wait_ended(core: _core.Connection) -> None:
    core.wait(_core.ENDED, None)
    _raise_failure(core)


def _raise_failure(core: _core.Connection) -> None:
    if core.failure is not None:
        raise from_core(*core.failure)


# By identity: connectors of one name are equal, and each has an agent of its own.
_open: weakref.WeakValueDictionary[int, Worker] = weakref.WeakValueDictionary()


_watchers: list[Callable[[Worker], None]] = []


def watch_workers(watcher: Callable[[Worker], None]) -> None:
    """Have it called with each connector that is open, and each that is made from now on; once or
    twice."""
    _watchers.append(watcher)
    for worker in open_workers():
        watcher(worker)


def open_workers() -> list[Worker]:
    """The connectors of this process that are not closed."""
    # The references are read at once: another thread may make or close one meanwhile.
    return [worker for reference in _open.valuerefs() if (worker := reference()) is not None]


def _close_with_multiprocessing() -> None:
    """Its children end without `atexit`, by finalizers of its own: what peers were not told of yet
    would be lost."""
    process = sys.modules.get("multiprocessing.process")
    util = sys.modules.get("multiprocessing.util")
    if process is None or util is None or process.parent_process() is None:
        return
    if _closes_with_multiprocessing != [os.getpid()]:
        _closes_with_multiprocessing[:] = [os.getpid()]
        # Of those that run first: the process still has all that it had.
        util.Finalize(None, _close_all, exitpriority=100)


# The process in which that was done; a forked child has its parent's.
_closes_with_multiprocessing: list[int] = []


@atexit.register
def _close_all() -> None:
    """Close what is open while the interpreter still works."""
    for connector in open_workers():
        connector.close()
    if any(thread.daemon for thread in threading.enumerate()):
        # What they refer to is never released.
        _core.set_leak_warnings(False)
