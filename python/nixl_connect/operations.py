"""Operations: one transfer each, seen from its passive or its active side."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from enum import IntEnum
from functools import partial
from types import TracebackType
from typing import TypeVar

from . import _asyncio, _core, _signing, _streams
from ._default import Default
from ._tracing import OperationSpan
from .connection import Connection, core_of
from .descriptor import Descriptor, DescriptorList
from .errors import OperationCancelledError, OperationStateError, from_core
from .metadata import RdmaMetadata, SerializedDescriptor

__all__ = [
    "AbstractOperation",
    "ActiveOperation",
    "OperationKind",
    "OperationStatus",
    "PassiveOperation",
    "ReadOperation",
    "ReadableOperation",
    "Remote",
    "WritableOperation",
    "WriteOperation",
]

_log = logging.getLogger("nixl_connect")
_ENDED = _core.ENDED
_RELEASED = _core.RELEASED

Self = TypeVar("Self", bound="AbstractOperation")


class OperationKind(IntEnum):
    """What the active side does."""

    UNSPECIFIED = 0
    READ = 1
    WRITE = 2

    def __str__(self) -> str:
        return self.name if self else "<invalid>"


class OperationStatus(IntEnum):
    """Moves one way, and reaches one of the last three once."""

    UNINITIALIZED = 0
    INITIALIZED = 1
    """Accepted; no byte has been asked for yet, as far as this side knows."""
    IN_PROGRESS = 2
    """The transfer is under way."""
    COMPLETE = 3
    """Every byte has arrived."""
    CANCELLED = 4
    """Cancelled on this side."""
    ERRORED = 5
    """Failed; `AbstractOperation.wait_for_completion` raises why."""

    def __str__(self) -> str:
        return _STATUS_NAMES[self]


_STATUS_NAMES = ("<invalid>", "INIT", "PROC", "DONE", "STOP", "ERR")
_STATUSES = tuple(OperationStatus)


def _core_timeout(timeout: float | Default | None) -> float | None:
    """The core's way: None for the default, negative for no deadline."""
    if isinstance(timeout, Default):
        return None
    return -1.0 if timeout is None else check_timeout(timeout)


def check_timeout(timeout: float, argument: str = "timeout") -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"{argument}: expected seconds or None, got {type(timeout).__name__}")
    if not timeout >= 0:
        raise ValueError(f"{argument}: expected 0 seconds or more, got {timeout}")
    return float(timeout)


class AbstractOperation(ABC):
    """One transfer, from one side.

    Its memory is registered and kept alive until NIXL has stopped using it, which can be
    after the operation has ended, been cancelled or been garbage-collected.

    As a context manager it cancels itself at the end of the block if it has not ended.

    Thread safety: every member may be used from any thread and any event loop.
    """

    _connection: Connection | None = None
    _span: OperationSpan | None = None

    @abstractmethod
    def __init__(
        self,
        connection: Connection,
        core: _core.Connection,
        kind: OperationKind,
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
    ) -> None:
        self._connector = connection._connector
        self._core = core
        self._operation_kind = kind
        self._local_desc_list = local_descriptors

    @property
    def connection(self) -> Connection:
        """This operation's own connection."""
        if self._connection is None:
            number = int(self._core.name.rpartition("-")[2])
            self._connection = Connection(self._connector, number)
        return self._connection

    @property
    def operation_kind(self) -> OperationKind:
        """What the active side does."""
        return self._operation_kind

    @property
    def status(self) -> OperationStatus:
        """How far it has come. Only looks; asking starts and advances nothing."""
        return _STATUSES[self._core.status]

    @property
    def local_descriptors(self) -> list[Descriptor]:
        """The descriptors on this side."""
        local = self._local_desc_list
        if isinstance(local, list):
            return local
        return list(local) if isinstance(local, DescriptorList) else [local]

    async def wait_for_completion(self, timeout: float | None = None) -> None:
        """Wait, without blocking the event loop, until the operation has ended.

        Returns when it is complete, and also when it was cancelled on this side: `status`
        and `results()` tell which. Any number of tasks, in any number of event loops, may
        wait. Cancelling a task that waits leaves the operation as it is.

        Parameters
        ----------
        timeout
            Seconds to wait at most; the operation goes on when they have passed. The
            operation's own deadline was set when it was made.

        Raises
        ------
        TimeoutError
            When `timeout` has passed.
        TransferError
            When the operation has failed: of the type that says how.
        """
        core = self._core
        if not core.reached(_ENDED):
            if timeout is not None:
                check_timeout(timeout)
            if not await _asyncio.wait_for(partial(core.notify, _ENDED), core.forget, timeout):
                raise self._wait_timed_out(timeout)
        if core.failure is not None:
            self._raise_failure()
        if self._span is not None:
            self._end_span()

    def wait(self, timeout: float | None = None) -> None:
        """As `wait_for_completion`, blocking the calling thread."""
        if timeout is not None:
            check_timeout(timeout)
        if not self._core.wait(_ENDED, timeout):
            raise self._wait_timed_out(timeout)
        self._raise_failure()
        if self._span is not None:
            self._end_span()

    @property
    def released(self) -> bool:
        """Whether NIXL has let go of the memory, so that it may be used for something else."""
        return self._core.reached(_RELEASED)

    async def wait_for_release(self, timeout: float | None = None) -> None:
        """Wait, without blocking the event loop, until NIXL has let go of the memory.

        That is soon after the end of a complete operation. After a cancellation or a failure it
        may be later: a transfer that is under way cannot be called back, and an offer lingers
        that a peer may know of (`Connector`'s ``linger``). Only then may blocks of a pool be
        given to somebody else. Raises nothing for how the operation ended.

        Parameters
        ----------
        timeout
            Seconds to wait at most.

        Raises
        ------
        TimeoutError
            When `timeout` has passed.
        """
        if timeout is not None:
            check_timeout(timeout)
        core = self._core
        if core.reached(_RELEASED):
            return
        if not await _asyncio.wait_for(partial(core.notify, _RELEASED), core.forget, timeout):
            raise TimeoutError(f"{self!r} has not let go of its memory after {timeout} s")

    def cancel(self) -> None:
        """End the operation as cancelled, if it has not ended.

        A transfer that is under way cannot be called back: its memory stays pinned until
        NIXL reports its end, and the peer learns what really became of it.
        """
        self._core.cancel()

    def results(self) -> list[Descriptor]:
        """The local descriptors of a complete operation.

        Raises
        ------
        TransferError
            When it is not complete: `OperationStateError` before its end,
            `OperationCancelledError` when it was cancelled, or what made it fail.
        """
        status = self.status
        if status is not OperationStatus.COMPLETE:
            self._raise_failure()
            if status is OperationStatus.CANCELLED:
                raise OperationCancelledError(f"{self!r} was cancelled and has no results")
            raise OperationStateError(f"{self!r} has not completed yet and has no results")
        return self.local_descriptors

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._core.reached(_ENDED):
            self._core.cancel()
        if self._span is not None:
            self._end_span()

    async def __aenter__(self: Self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc_value, traceback)

    def __repr__(self) -> str:
        local = self._local_desc_list
        what = repr(local) if isinstance(local, Descriptor) else f"{len(local)} descriptors"
        return f"{type(self).__name__}({self._core.name!r}, {what}, status={self.status})"

    def _wait_timed_out(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(f"{self!r} has not ended after {timeout} s; it goes on")

    def _raise_failure(self) -> None:
        failure = self._core.failure
        if failure is not None:
            error = from_core(*failure)
            if self._span is not None:
                self._end_span(error)
            _log.debug("%s", error)
            raise error

    def _end_span(self, failure: Exception | None = None) -> None:
        assert self._span is not None
        self._span.end(self.status.name.lower(), failure)


class PassiveOperation(AbstractOperation):
    """The side that offers memory and waits for a peer to act."""

    @abstractmethod
    def __init__(
        self,
        connection: Connection,
        operation_kind: OperationKind,
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
        timeout: float | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
    ) -> None:
        after = _streams.fences(stream, local_descriptors)
        core = core_of(connection).create(
            operation_kind, local_descriptors, _core_timeout(timeout), after
        )
        super().__init__(connection, core, operation_kind, local_descriptors)
        # Taken now: what is registered is what is told. A list that cannot change has time.
        self._serialized_descriptors: list[SerializedDescriptor] | DescriptorList
        if isinstance(local_descriptors, list):
            self._serialized_descriptors = [d.metadata for d in local_descriptors]
        elif isinstance(local_descriptors, DescriptorList):
            self._serialized_descriptors = local_descriptors
        else:
            self._serialized_descriptors = [local_descriptors.metadata]
        self._serialized_requests: dict[bool, RdmaMetadata] = {}

    def metadata(self, hex_encode: bool = False) -> RdmaMetadata:
        """What to send to the peer, by any channel.

        Parameters
        ----------
        hex_encode
            Write `RdmaMetadata.nixl_metadata` in hexadecimal, as peers before ``b64:`` expect.

        Raises
        ------
        TransferError
            When the memory could not be registered, or the operation has failed or was
            cancelled.
        """
        request = self._serialized_requests.get(hex_encode)
        if request is None:
            descriptors = self._serialized_descriptors
            if isinstance(descriptors, DescriptorList):
                descriptors = descriptors.metadata
            request = RdmaMetadata._of(
                descriptors,
                self._core.nixl_metadata(hex_encode),
                self._core.notification_key,
                int(self._operation_kind),
            )
            if self._connector._auth_key is not None:
                request = _signing.sign(self._connector._auth_key, request)
            self._serialized_requests[hex_encode] = request
        return request


class ActiveOperation(AbstractOperation):
    """The side that was given metadata, and reads or writes."""

    _remote: Remote | None = None

    @abstractmethod
    def __init__(
        self,
        connection: Connection,
        operation_kind: OperationKind,
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
        remote_metadata: RdmaMetadata,
        timeout: float | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
    ) -> None:
        if not isinstance(remote_metadata, RdmaMetadata):
            raise TypeError(
                f"remote_metadata: expected RdmaMetadata, got {type(remote_metadata).__name__}"
            )
        begin = core_of(connection).begin
        auth_key = connection._connector._auth_key
        if auth_key is not None:
            _signing.verify(auth_key, remote_metadata)
        after = _streams.fences(stream, local_descriptors)
        core = begin(
            operation_kind, remote_metadata, local_descriptors, _core_timeout(timeout), after
        )
        super().__init__(connection, core, operation_kind, local_descriptors)

    @property
    def remote(self) -> Remote:
        """The worker that offered the memory."""
        if self._remote is None:
            self._remote = Remote._named(self.connection, self._core.remote_name)
        return self._remote


class ReadableOperation(PassiveOperation):
    """Memory that a peer may read; complete when it has.

    Parameters
    ----------
    connection
        Any connection of the connector to use.
    local_descriptors
        What to offer.
    timeout
        Seconds until the operation fails with `DeadlineExceededError`; None for no deadline.
    stream
        The CUDA stream whose work so far must be done first, as of `Connector.create_readable`.
    """

    def __init__(
        self,
        connection: Connection,
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
        timeout: float | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
    ) -> None:
        super().__init__(connection, OperationKind.READ, local_descriptors, timeout, stream)


class WritableOperation(PassiveOperation):
    """Memory that a peer may write; complete when it has.

    Parameters
    ----------
    connection
        Any connection of the connector to use.
    local_descriptors
        Where the data is to arrive; writable memory.
    timeout
        Seconds until the operation fails with `DeadlineExceededError`; None for no deadline.
    stream
        The CUDA stream whose work so far must be done first, as of `Connector.create_readable`.
    """

    def __init__(
        self,
        connection: Connection,
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
        timeout: float | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
    ) -> None:
        super().__init__(connection, OperationKind.WRITE, local_descriptors, timeout, stream)


class ReadOperation(ActiveOperation):
    """Reads what a `ReadableOperation` offers; under way from the moment it is made.

    Parameters
    ----------
    connection
        Any connection of the connector to use.
    remote_metadata
        What the peer sent.
    local_descriptors
        Where the data is to arrive: writable, as many and of the same sizes as the remote's.
    timeout
        Seconds until the operation fails with `DeadlineExceededError`; None for no deadline.
    stream
        The CUDA stream whose work so far must be done first, as of `Connector.create_readable`.
    """

    def __init__(
        self,
        connection: Connection,
        remote_metadata: RdmaMetadata,
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
        timeout: float | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
    ) -> None:
        super().__init__(
            connection, OperationKind.READ, local_descriptors, remote_metadata, timeout, stream
        )


class WriteOperation(ActiveOperation):
    """Writes to what a `WritableOperation` offers; under way from the moment it is made.

    Parameters
    ----------
    connection
        Any connection of the connector to use.
    local_descriptors
        What to send: as many descriptors and of the same sizes as the remote's.
    remote_metadata
        What the peer sent.
    timeout
        Seconds until the operation fails with `DeadlineExceededError`; None for no deadline.
    stream
        The CUDA stream whose work so far must be done first, as of `Connector.create_readable`.
    """

    def __init__(
        self,
        connection: Connection,
        local_descriptors: Descriptor | list[Descriptor] | DescriptorList,
        remote_metadata: RdmaMetadata,
        timeout: float | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
    ) -> None:
        super().__init__(
            connection, OperationKind.WRITE, local_descriptors, remote_metadata, timeout, stream
        )


class Remote:
    """A remote worker, as named by its metadata.

    Parameters
    ----------
    connection
        The local connection.
    nixl_metadata
        `RdmaMetadata.nixl_metadata`, or a NIXL blob itself as ``bytes``. Checked from end to
        end; NIXL sees it when an operation begins.

    Raises
    ------
    TypeError
        When an argument is of another type.
    RejectedMetadataError
        When the metadata is no such thing.
    """

    def __init__(self, connection: Connection, nixl_metadata: bytes | str) -> None:
        core_of(connection)
        if not isinstance(nixl_metadata, (bytes, str)):
            raise TypeError(
                f"nixl_metadata: expected bytes or str, got {type(nixl_metadata).__name__}"
            )
        if isinstance(nixl_metadata, str):
            nixl_metadata = _core.decode_nixl_metadata(nixl_metadata)
        self._connection = connection
        self._name = _core.agent_name_of(nixl_metadata)

    @classmethod
    def _named(cls, connection: Connection, name: str) -> Remote:
        remote = cls.__new__(cls)
        remote._connection = connection
        remote._name = name
        return remote

    @property
    def connection(self) -> Connection:
        """The local connection."""
        return self._connection

    @property
    def name(self) -> str:
        """The name of the remote agent."""
        return self._name

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to do: what was loaded for a peer serves its next operations."""

    def __repr__(self) -> str:
        return f"Remote(name={self._name!r}, connection={self._connection.name!r})"

    def __str__(self) -> str:
        return self._name
