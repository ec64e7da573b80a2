"""The connector: where operations come from."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, SupportsFloat, SupportsIndex

from . import _core
from ._arguments import (
    check_count,
    check_flag,
    check_parameters,
    check_path,
    check_text,
    check_timeout,
)
from ._asyncio import coroutine_function
from ._call import OperationCall, OperationT
from ._default import Default
from ._library import load_cuda_runtime, nixl_library_candidates
from ._local import Local, LocalDescriptors, is_large
from ._offload import offload
from ._sides import PassiveT, prepared
from ._signing import check_auth_key
from ._streams import Fences
from ._tracing import begin_span, tracer
from ._wire import NixlMetadata, RemoteMetadata
from ._worker import Worker
from .connection import Connection
from .operations import ReadableOperation, ReadOperation, WritableOperation, WriteOperation

__all__ = ["Connection", "Connector", "OperationCall"]


class Connector(Worker):
    """Moves memory between this process and others.

    One connector has one NIXL agent and one thread that drives it. Both are made at the first
    use, off the event loop, so a connector may be made before the process forks and used
    after it. Once any connector has been used, forked children cannot use one (UCX does not
    survive a fork) and get a `ForkedProcessError`; spawn them instead.

    Thread safety: may be used from any number of threads and event loops at once.

    Parameters
    ----------
    worker_id
        The worker's name, up to 4,079 bytes in UTF-8; a random one when None. Workers need no
        unique names: the agent's name has a part that is unique to this process's life.
    backend
        NIXL's backend.
    backend_parameters
        The backend's parameters, over its defaults. For UCX, for example,
        ``{"ucx_error_handling_mode": "none"}``.
    default_timeout
        The timeout, in seconds, of operations that are made without one of their own; None for
        no deadline.
    linger
        Seconds that the memory of a cancelled or expired passive operation stays registered and
        alive, when a peer of which nothing is known may still use it. Peers that run this library
        claim an offer before they touch its memory: memory that they use stays until they are
        done, and memory that nobody uses is released at once. Other peers, such as Dynamo's,
        claim nothing. The memory is released sooner when the peer reports completion or failure;
        with ``math.inf`` only then, or at `close`.
    foreign_peers
        Whether there are peers that claim nothing, so that offers linger from the start. None:
        offers linger once such a peer has been seen.
    max_linger_bytes
        The most bytes that linger for such peers; beyond that, the oldest offers are released
        first.
    auth_key
        A secret of 16 bytes or more that workers share. What operations send is then signed
        with it (HMAC-SHA256). Metadata that is not signed with it, or was altered since, is
        refused before it is parsed.
    progress_thread
        Have NIXL run a progress thread of its own. It is not needed, and burns most of a core
        on hosts without RDMA.
    spin
        Seconds that the engine keeps polling at full speed after something has happened: lower
        latency for more processor time.
    max_pause
        The longest pause, in seconds, between two polls while an operation is pending. A longer
        pause makes a waiting offer cheaper, and the answer to its peer later. Pauses grow with
        the time since something last happened: to 1 ms after 8 ms (after 32 ms while an operation
        is about that is larger than `inline_limit` or on a GPU), to 10 ms after 0.64 s. A transfer
        may need two polls.
    engines
        NIXL agents, each with a thread, from 1 to 64. The first does all small operations, the
        others do large ones on host memory (from 1 MiB). Each large operation is cut into at most
        as many parts. On hosts without RDMA they are copied at the same time. With one engine, a
        large transfer holds up whatever comes after it.
    inline_limit
        The calling thread itself registers and begins operations on host memory of up to this
        many bytes, when the engine is free and the peer is known; that takes it 5 to 40 µs. It
        offers more, too, where that takes no longer: where no RDMA device or GPU pins it. The
        engine's thread does the others, and with 0 all.
    nixl_library
        Path of ``libnixl_capi.so``. When None, the library is looked for in the environment
        variable ``NIXL_CONNECT_NIXL_LIBRARY``, a copy loaded in this process, NIXL's wheels and
        the system.

    Raises
    ------
    TypeError, ValueError
        When an argument is wrong. If NIXL is missing, the first use raises
        `NixlNotFoundError`.
    """

    def __init__(
        self,
        worker_id: str | None = None,
        *,
        backend: str = "UCX",
        backend_parameters: Mapping[str, str | float | SupportsIndex] | None = None,
        default_timeout: SupportsFloat | None = 300.0,
        linger: SupportsFloat = 10.0,
        auth_key: bytes | None = None,
        progress_thread: bool = False,
        spin: SupportsFloat = 200e-6,
        max_pause: SupportsFloat = 10e-3,
        engines: SupportsIndex = 1,
        inline_limit: SupportsIndex = 64 << 10,
        foreign_peers: bool | None = None,
        max_linger_bytes: SupportsIndex = 16 << 30,
        nixl_library: str | os.PathLike[str] | None = None,
    ) -> None:
        worker_id = (
            os.urandom(16).hex() if worker_id is None else check_text(worker_id, "worker_id")
        )
        check_auth_key(auth_key)
        candidates = nixl_library_candidates()
        load_cuda_runtime(candidates)
        core = _core.Connector(
            name=worker_id,
            backend=check_text(backend, "backend"),
            backend_parameters=check_parameters(backend_parameters, "backend_parameters"),
            default_timeout=(
                None
                if default_timeout is None
                else check_timeout(default_timeout, "default_timeout")
            ),
            linger=check_timeout(linger, "linger"),
            progress_thread=check_flag(progress_thread, "progress_thread"),
            nixl_library="" if nixl_library is None else check_path(nixl_library, "nixl_library"),
            nixl_library_candidates=candidates,
            spin=check_timeout(spin, "spin"),
            max_pause=check_timeout(max_pause, "max_pause"),
            engines=check_count(engines, "engines", 1, 64),
            inline_limit=check_count(inline_limit, "inline_limit", 0, 1 << 40),
            foreign_peers=(
                None if foreign_peers is None else check_flag(foreign_peers, "foreign_peers")
            ),
            max_linger_bytes=check_count(max_linger_bytes, "max_linger_bytes", 0, 1 << 62),
        )
        super().__init__(worker_id, core, auth_key)
        self._tracer = tracer()

    @coroutine_function
    def create_readable(
        self,
        local_descriptors: LocalDescriptors,
        *,
        readers: SupportsIndex | None = 1,
        timeout: SupportsFloat | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
    ) -> OperationCall[ReadableOperation]:
        """Offer memory for a peer to read.

        Parameters
        ----------
        local_descriptors
            What to offer: a `Descriptor`, whatever one can be made of, a list or tuple of these, or
            a `DescriptorList`. Kinds of memory and devices may be mixed.
        readers
            For how many peers: the operation is complete when this many have read the memory, each
            once. None for any number, until it is cancelled. A peer beyond the number, a late one,
            or one that comes a second time gets `OfferClosedError`.
        timeout
            Seconds until the operation fails with `DeadlineExceededError`; None for no
            deadline; the connector's ``default_timeout`` when not given.
        stream
            The CUDA stream whose work so far must be done before a byte may move: a stream of
            torch, CuPy, Numba or cuda.core, or its handle. None for no waiting. If it is not
            given, each piece of GPU memory has the stream that its library uses at the time of
            the call, no matter when the result is awaited: torch's current one of the device,
            CuPy's, the one that ``__cuda_array_interface__`` names; for raw pointers the default
            stream, and torch's current one. Nothing blocks: the ``await`` lasts until the work is
            done.

        Raises
        ------
        TypeError, ValueError
            When an argument is wrong, or the metadata would be larger than peers accept: from
            some 380,000 pieces that are not parts of memory registered by hand, fewer with RDMA.
        TransferError
            When the memory could not be registered, NIXL is missing or the connector closed.
        """
        arguments = local_descriptors, stream, (timeout, readers)
        return OperationCall(_core.Start(self, ReadableOperation, self._create, *arguments))

    @coroutine_function
    def create_writable(
        self,
        local_descriptors: LocalDescriptors,
        *,
        writers: SupportsIndex | None = 1,
        timeout: SupportsFloat | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
    ) -> OperationCall[WritableOperation]:
        """Offer memory for a peer to write. As `create_readable`; the memory is writable."""
        arguments = local_descriptors, stream, (timeout, writers)
        return OperationCall(_core.Start(self, WritableOperation, self._create, *arguments))

    @coroutine_function
    def begin_read(
        self,
        remote_metadata: RemoteMetadata,
        local_descriptors: LocalDescriptors,
        *,
        timeout: SupportsFloat | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
        nixl_connection_metadata: NixlMetadata | None = None,
    ) -> OperationCall[ReadOperation]:
        """Begin to read what a peer offers.

        The transfer is in flight when the call returns, or as soon as the GPU has done the work
        that `stream` was given before. It needs no further call.

        Parameters
        ----------
        remote_metadata
            What the peer's `ReadableOperation.metadata` or `ReadableOperation.wire` returned.
        local_descriptors
            Where the data is to arrive, as in `create_readable`: writable memory, each byte named
            once. The number of descriptors and their sizes must match the remote's.
        timeout
            Seconds until the operation fails with `DeadlineExceededError`; None for no
            deadline; the connector's ``default_timeout`` when not given.
        stream
            As in `create_readable`: work that still uses the memory is done before the data
            arrives. The transfer is in flight when the stream's work is done.
        nixl_connection_metadata
            NIXL's metadata that says how to reach the peer's agent, when `remote_metadata` has
            only its regions. The peer takes it once, before it registers any memory. It is not
            signed, and so is refused with an ``auth_key``.

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
        how = timeout, remote_metadata, nixl_connection_metadata
        return OperationCall(
            _core.Start(self, ReadOperation, self._begin, local_descriptors, stream, how)
        )

    @coroutine_function
    def begin_write(
        self,
        local_descriptors: LocalDescriptors,
        remote_metadata: RemoteMetadata,
        *,
        timeout: SupportsFloat | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
        nixl_connection_metadata: NixlMetadata | None = None,
    ) -> OperationCall[WriteOperation]:
        """Begin to write to what a peer offers. As `begin_read`, the other way."""
        how = timeout, remote_metadata, nixl_connection_metadata
        return OperationCall(
            _core.Start(self, WriteOperation, self._begin, local_descriptors, stream, how)
        )

    def create_readable_blocking(
        self,
        local_descriptors: LocalDescriptors,
        *,
        readers: SupportsIndex | None = 1,
        timeout: SupportsFloat | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
    ) -> ReadableOperation:
        """As `create_readable`, for threads without an event loop."""
        return self._create_blocking(ReadableOperation, local_descriptors, timeout, stream, readers)

    def create_writable_blocking(
        self,
        local_descriptors: LocalDescriptors,
        *,
        writers: SupportsIndex | None = 1,
        timeout: SupportsFloat | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
    ) -> WritableOperation:
        """As `create_writable`, for threads without an event loop."""
        return self._create_blocking(WritableOperation, local_descriptors, timeout, stream, writers)

    def begin_read_blocking(
        self,
        remote_metadata: RemoteMetadata,
        local_descriptors: LocalDescriptors,
        *,
        timeout: SupportsFloat | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
        nixl_connection_metadata: NixlMetadata | None = None,
    ) -> ReadOperation:
        """As `begin_read`, for threads without an event loop."""
        self._wait_started()
        local, after = prepared(local_descriptors, stream)
        arguments = after, timeout, remote_metadata, nixl_connection_metadata
        return self._make(ReadOperation, local, *arguments)

    def begin_write_blocking(
        self,
        local_descriptors: LocalDescriptors,
        remote_metadata: RemoteMetadata,
        *,
        timeout: SupportsFloat | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
        nixl_connection_metadata: NixlMetadata | None = None,
    ) -> WriteOperation:
        """As `begin_write`, for threads without an event loop."""
        self._wait_started()
        local, after = prepared(local_descriptors, stream)
        arguments = after, timeout, remote_metadata, nixl_connection_metadata
        return self._make(WriteOperation, local, *arguments)

    def _make(
        self, operation: type[OperationT], local: Local, after: Fences, *arguments: Any
    ) -> OperationT:
        began = 0 if self._tracer is None else time.time_ns()
        made = operation.__new__(operation)
        _core.start(made, self, local, after, *arguments)
        if began:
            made._span = begin_span(self._tracer, made, began)
        return made

    async def _begin(
        self, operation: type[OperationT], local: Local, *arguments: Any
    ) -> OperationT:
        """As `_make`, once there is an agent, and without holding the event loop for long."""
        if not self._core.started:
            await self._started()
        if not is_large(local):
            return self._make(operation, local, *arguments)
        make = partial(self._make, operation, local, *arguments)
        return await offload(make, lambda made: made.__exit__(None, None, None))

    async def _create(self, operation: type[PassiveT], local: Local, *arguments: Any) -> PassiveT:
        made = await self._begin(operation, local, *arguments)
        core = made._core
        if not core.offered:
            await _core.Wait(made, core, _core.READY)
        if is_large(local):
            await offload(made._draft)
        return made

    def _create_blocking(
        self,
        operation: type[PassiveT],
        local_descriptors: LocalDescriptors,
        timeout: SupportsFloat | Default | None,
        stream: object,
        places: SupportsIndex | None,
    ) -> PassiveT:
        self._wait_started()
        local, after = prepared(local_descriptors, stream)
        made = self._make(operation, local, after, timeout, places)
        made._core.wait(_core.READY, None)
        made._raise_failure()
        return made
