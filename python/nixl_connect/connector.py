"""The connector: where operations come from."""

from __future__ import annotations

import asyncio
import atexit
import inspect
import logging
import socket
import sys
import time
import uuid
import weakref
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import AbstractAsyncContextManager
from functools import cached_property, partial
from types import TracebackType
from typing import Any, TypeVar

from . import _asyncio, _core, _streams
from ._default import Default
from ._library import load_cuda_runtime, nixl_library_candidates
from ._signing import check_auth_key
from ._tracing import OperationSpan, tracer
from .connection import Connection
from .descriptor import Descriptor, DescriptorList
from .metadata import RdmaMetadata
from .operations import (
    AbstractOperation,
    ReadableOperation,
    ReadOperation,
    WritableOperation,
    WriteOperation,
    check_timeout,
)
from .stats import ConnectorStats

__all__ = ["Connection", "Connector", "OperationCall"]

_log = logging.getLogger("nixl_connect")

OperationT = TypeVar("OperationT", bound=AbstractOperation)
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def _coroutine_function(function: FunctionT) -> FunctionT:
    """Have `inspect.iscoroutinefunction`, and so `unittest.mock`, take it for what it is."""
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    # What asyncio and unittest.mock ask for before; inspect itself cannot be told.
    function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return function


def _check_count(value: int, argument: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument}: expected int, got {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{argument}: expected {least} to {most}, got {value}")
    return value


class OperationCall(Coroutine[Any, Any, OperationT], AbstractAsyncContextManager[OperationT]):
    """What a connector's factories return: a coroutine that can also be entered.

    ``op = await connector.create_readable(d)``, or ``async with connector.create_readable(d)
    as op:``, which cancels the operation at the end of the block if it has not ended.
    """

    __slots__ = ("_coroutine", "_operation")

    def __init__(self, coroutine: Coroutine[Any, Any, OperationT]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, OperationT]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, *args: Any) -> Any:
        return self._coroutine.throw(*args)

    def close(self) -> None:
        self._coroutine.close()

    async def __aenter__(self) -> OperationT:
        self._operation = await self._coroutine
        return self._operation

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._operation.__exit__(exc_type, exc_value, traceback)


class Connector:
    """Moves memory between this process and others.

    One connector has one NIXL agent and one thread that drives it. Both are made at the first
    use, off the event loop, so a connector may be made before the process forks and used
    after it. Once any connector has been used, forked children cannot use one (UCX does not
    survive a fork) and are told so with `ForkedProcessError`; spawn them instead.

    Thread safety: may be used from any number of threads and event loops at once.

    Parameters
    ----------
    worker_id
        The worker's name; a random one when None. Workers need no unique names: the agent's
        name has a part that is unique to this process's life.
    backend
        NIXL's backend.
    backend_parameters
        The backend's parameters, over its defaults. For UCX, for example,
        ``{"ucx_error_handling_mode": "none"}``.
    default_timeout
        Seconds after which an operation fails that was made without a timeout of its own;
        None for no deadline.
    linger
        Seconds that the memory of a passive operation stays registered and alive which was
        cancelled, or whose deadline has passed, after its metadata was taken: a peer's transfer
        may be under way, and without RDMA hardware nothing else keeps its bytes out. It ends
        sooner when the peer reports its end; with ``math.inf`` only then, or at `close`.
    auth_key
        A secret of 16 bytes or more that workers share. What operations send is then signed
        with it (HMAC-SHA256), and metadata is refused, before it is parsed, that is not signed
        with it or was altered since.
    progress_thread
        Have NIXL run a progress thread of its own. It is not needed, and burns most of a core
        on hosts without RDMA.
    spin
        Seconds that the engine keeps polling at full speed after something has happened:
        latency, for processor time.
    max_pause
        The longest pause, in seconds, between two looks while an operation is pending: what an
        offer that waits costs, against how soon its peer is answered. Pauses grow with the time
        since something last happened: to 1 ms after 8 ms, to 10 ms after 0.64 s. A transfer
        may need two looks.
    engines
        NIXL agents, each with a thread, from 1 to 64: the first for all small operations, the
        others for large ones on host memory (from 1 MiB), each of which is cut in as many parts
        that are copied at the same time on hosts without RDMA. With one, a large transfer holds
        up whatever comes after it.
    inline_limit
        Operations on host memory of up to so many bytes are registered and begun by the calling
        thread itself when the engine is free and the peer is known, which takes it 5 to 40 µs;
        larger ones, and all with 0, by the engine's thread.
    nixl_library
        Path of ``libnixl_capi.so``; found by itself when None: the environment variable
        ``NIXL_CONNECT_NIXL_LIBRARY``, a copy loaded in this process, NIXL's wheels, the
        system.

    Raises
    ------
    TypeError, ValueError
        When an argument is wrong. That NIXL is missing is told by the first use, with
        `NixlNotFoundError`.
    """

    def __init__(
        self,
        worker_id: str | None = None,
        *,
        backend: str = "UCX",
        backend_parameters: Mapping[str, str] | None = None,
        default_timeout: float | None = 300.0,
        linger: float = 10.0,
        auth_key: bytes | None = None,
        progress_thread: bool = False,
        spin: float = 200e-6,
        max_pause: float = 10e-3,
        engines: int = 1,
        inline_limit: int = 64 << 10,
        nixl_library: str | None = None,
    ) -> None:
        if worker_id is None:
            worker_id = uuid.uuid4().hex
        if not isinstance(worker_id, str) or not worker_id or "\0" in worker_id:
            raise TypeError(
                f"worker_id: expected a str that is not empty, or None, got {worker_id!r}"
            )
        if default_timeout is not None:
            check_timeout(default_timeout, "default_timeout")
        self._auth_key = check_auth_key(auth_key)
        self._worker_id = worker_id
        self._hostname = socket.gethostname()
        candidates = nixl_library_candidates()
        load_cuda_runtime(candidates)
        self._core = _core.Connector(
            name=worker_id,
            backend=backend,
            backend_parameters=dict(backend_parameters or {}),
            default_timeout=default_timeout,
            linger=check_timeout(linger, "linger"),
            progress_thread=progress_thread,
            nixl_library=nixl_library or "",
            nixl_library_candidates=candidates,
            spin=check_timeout(spin, "spin"),
            max_pause=check_timeout(max_pause, "max_pause"),
            engines=_check_count(engines, "engines", 1, 64),
            inline_limit=_check_count(inline_limit, "inline_limit", 0, 1 << 40),
        )
        self._shared_connection = Connection(self, self._core.next_connection_number())
        self._tracer = tracer()
        _open[id(self)] = self

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
        torch = sys.modules.get("torch")
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

    @_coroutine_function
    def create_readable(
        self,
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
        *,
        timeout: float | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
    ) -> OperationCall[ReadableOperation]:
        """Offer memory for a peer to read.

        Parameters
        ----------
        local_descriptors
            What to offer; kinds of memory and devices may be mixed.
        timeout
            Seconds until the operation fails with `DeadlineExceededError`; None for no
            deadline; the connector's ``default_timeout`` when not given.
        stream
            The CUDA stream whose work so far must be done before a byte may move: a stream of
            torch, CuPy, Numba or cuda.core, or its handle. None for no waiting. If it is not
            given, each piece of GPU memory has the stream that its library uses at this moment:
            torch's current one of the device, CuPy's, the one that ``__cuda_array_interface__``
            names; for raw pointers the default stream, and torch's current one. "This moment" is
            the call, whenever its result is awaited. Nothing blocks meanwhile: this is awaited
            until the work is done.

        Raises
        ------
        TypeError, ValueError
            When an argument is wrong.
        TransferError
            When the memory could not be registered, NIXL is missing or the connector closed.
        """
        after = _streams.fences(stream, local_descriptors)
        return OperationCall(self._create(ReadableOperation, local_descriptors, timeout, after))

    @_coroutine_function
    def create_writable(
        self,
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
        *,
        timeout: float | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
    ) -> OperationCall[WritableOperation]:
        """Offer memory for a peer to write. As `create_readable`; the memory is writable."""
        after = _streams.fences(stream, local_descriptors)
        return OperationCall(self._create(WritableOperation, local_descriptors, timeout, after))

    @_coroutine_function
    def begin_read(
        self,
        remote_metadata: RdmaMetadata,
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
        *,
        timeout: float | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
    ) -> OperationCall[ReadOperation]:
        """Begin to read what a peer offers.

        The transfer is under way when the call returns, or as soon as the GPU has done what
        `stream` was given before, and needs no further asking.

        Parameters
        ----------
        remote_metadata
            What the peer's `ReadableOperation.metadata` gave.
        local_descriptors
            Where the data is to arrive: writable memory, as many descriptors and of the same
            sizes as the remote's.
        timeout
            Seconds until the operation fails with `DeadlineExceededError`; None for no
            deadline; the connector's ``default_timeout`` when not given.
        stream
            As of `create_readable`: what still uses the memory is done before the data arrives.
            The transfer is under way when the stream's work is done.

        Raises
        ------
        TypeError, ValueError
            When an argument is wrong, does not match the remote's, or the metadata is of a
            writable operation.
        RejectedMetadataError
            When the metadata is damaged or contradicts itself.
        TransferError
            When NIXL is missing or the connector closed.
        """
        after = _streams.fences(stream, local_descriptors)
        return OperationCall(self._begin_read(remote_metadata, local_descriptors, timeout, after))

    @_coroutine_function
    def begin_write(
        self,
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
        remote_metadata: RdmaMetadata,
        *,
        timeout: float | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
    ) -> OperationCall[WriteOperation]:
        """Begin to write to what a peer offers. As `begin_read`, the other way."""
        after = _streams.fences(stream, local_descriptors)
        return OperationCall(self._begin_write(local_descriptors, remote_metadata, timeout, after))

    def create_readable_blocking(
        self,
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
        *,
        timeout: float | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
    ) -> ReadableOperation:
        """As `create_readable`, for threads without an event loop."""
        return self._create_blocking(ReadableOperation, local_descriptors, timeout, stream)

    def create_writable_blocking(
        self,
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
        *,
        timeout: float | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
    ) -> WritableOperation:
        """As `create_writable`, for threads without an event loop."""
        return self._create_blocking(WritableOperation, local_descriptors, timeout, stream)

    def begin_read_blocking(
        self,
        remote_metadata: RdmaMetadata,
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
        *,
        timeout: float | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
    ) -> ReadOperation:
        """As `begin_read`, for threads without an event loop."""
        self._core.wait_started()
        return self._make(ReadOperation, remote_metadata, local_descriptors, timeout, stream)

    def begin_write_blocking(
        self,
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
        remote_metadata: RdmaMetadata,
        *,
        timeout: float | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
    ) -> WriteOperation:
        """As `begin_write`, for threads without an event loop."""
        self._core.wait_started()
        return self._make(WriteOperation, local_descriptors, remote_metadata, timeout, stream)

    def stats(self) -> ConnectorStats:
        """What the connector has done and holds at this moment.

        Starts nothing, and never waits for longer than a millisecond: while the engine is in
        the middle of a large copy, its figures are as of before.
        """
        return ConnectorStats._of(self._core.stats())

    async def initialize(self) -> None:
        """Deprecated: does nothing. The agent is made when it is needed."""

    def close(self) -> None:
        """End every operation and give the agent back.

        Operations that have not ended fail with `ConnectorClosedError`; transfers that are
        under way get up to a second to come to their end, and their memory is let go when
        nothing can write to it any more. Blocks meanwhile; `aclose` does not. May be called
        again, from any thread, and in a forked child.
        """
        _open.pop(id(self), None)
        if not self._core.closed:
            _log.info("%r is closing", self)
        self._core.close()

    async def aclose(self) -> None:
        """As `close`, without blocking the event loop."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def __enter__(self) -> Connector:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Connector:
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
        if not isinstance(other, Connector):
            return NotImplemented
        return self._worker_id == other._worker_id

    def __hash__(self) -> int:
        return hash(self._worker_id)

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
        if not core.check_started():
            core.start()
            await _asyncio.wait_for(core.notify_started)
            core.check_started()
            _log.info("%r has made its agent, with %s", self, core.nixl_library)

    def _make(self, operation: Callable[..., OperationT], *arguments: Any) -> OperationT:
        if self._tracer is None:
            return operation(self._shared_connection, *arguments)
        began = time.time_ns()
        made = operation(self._shared_connection, *arguments)
        made._span = OperationSpan(self._tracer, made, began)
        return made

    async def _create(
        self,
        operation: type[OperationT],
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
        timeout: float | Default | None,
        after: _streams.Fences,
    ) -> OperationT:
        if not self._core.check_started():
            await self._started()
        made = self._make(operation, local_descriptors, timeout, after)
        core = made._core
        if not core.reached(_core.READY):
            await _asyncio.wait_for(partial(core.notify, _core.READY), core.forget)
        if core.failure is not None:
            made._raise_failure()
        return made

    def _create_blocking(
        self,
        operation: type[OperationT],
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
        timeout: float | Default | None,
        stream: object,
    ) -> OperationT:
        self._core.wait_started()
        made = self._make(operation, local_descriptors, timeout, stream)
        made._core.wait(_core.READY, None)
        made._raise_failure()
        return made

    async def _begin_read(
        self,
        remote_metadata: RdmaMetadata,
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
        timeout: float | Default | None,
        after: _streams.Fences,
    ) -> ReadOperation:
        if not self._core.check_started():
            await self._started()
        return self._make(ReadOperation, remote_metadata, local_descriptors, timeout, after)

    async def _begin_write(
        self,
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
        remote_metadata: RdmaMetadata,
        timeout: float | Default | None,
        after: _streams.Fences,
    ) -> WriteOperation:
        if not self._core.check_started():
            await self._started()
        return self._make(WriteOperation, local_descriptors, remote_metadata, timeout, after)


# By identity: connectors of one name are equal, and each has an agent of its own.
_open: weakref.WeakValueDictionary[int, Connector] = weakref.WeakValueDictionary()


def open_connectors() -> list[Connector]:
    """The connectors of this process that are not closed."""
    return list(_open.values())


@atexit.register
def _close_all() -> None:
    """Close what is open while the interpreter still works."""
    for connector in open_connectors():
        connector.close()
