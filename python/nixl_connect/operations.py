"""Operations: one transfer each, seen from its passive or its active side."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import SupportsFloat, SupportsIndex

from . import _asyncio, _core, _signing, _streams
from ._arguments import check_count, check_flag, check_timeout, core_timeout
from ._default import Default
from ._local import LocalDescriptors, as_descriptors, check_addresses, count_of, is_large
from ._operation import AbstractOperation, OperationKind, OperationStatus
from ._remote import Remote
from .connection import Connection, core_of
from .descriptor import DescriptorList, SerializedDescriptor
from .errors import WaitTimeoutError
from .metadata import NixlMetadata, RdmaMetadata, RemoteMetadata, with_connection

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

_ANY_NUMBER = 0x7FFFFFFF


class PassiveOperation(AbstractOperation):
    """The side that offers memory and waits for a peer to act."""

    @abstractmethod
    def __init__(
        self,
        connection: Connection,
        operation_kind: OperationKind,
        local_descriptors: LocalDescriptors,
        timeout: SupportsFloat | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
        places: SupportsIndex | None = 1,
    ) -> None:
        local = as_descriptors(local_descriptors)
        after = _streams.fences(stream, local)
        what = "readers" if operation_kind is OperationKind.READ else "writers"
        number = _ANY_NUMBER if places is None else check_count(places, what, 1, _ANY_NUMBER)
        core = core_of(connection).create(
            operation_kind, local, core_timeout(timeout), after, number
        )
        super().__init__(connection, core, operation_kind, local)
        # Taken now: what is registered is what the metadata names.
        # A list that cannot change can wait, and the core has those of a long one.
        self._serialized_descriptors: list[SerializedDescriptor] | DescriptorList | None
        if is_large(local) and isinstance(local, list):
            self._serialized_descriptors = None
        elif isinstance(local, list):
            self._serialized_descriptors = [d.metadata for d in local]
        elif isinstance(local, DescriptorList):
            self._serialized_descriptors = local
        else:
            self._serialized_descriptors = [local.metadata]
        self._serialized_requests: dict[bool, RdmaMetadata] = {}
        self._wire: bytes | None = None
        self._shared = False

    @property
    def readers_done(self) -> int:
        """How many peers have read what is offered, or written it."""
        return self._core.readers_done

    @property
    def readers_failed(self) -> int:
        """How many peers have failed, or died, after they had begun.

        An operation for several peers waits for the others then. It fails with
        `RemoteFailedError` when all of them have ended.
        """
        return self._core.readers_failed

    async def wait_for_readers(
        self, count: SupportsIndex, timeout: SupportsFloat | None = None
    ) -> None:
        """Wait, without blocking the event loop, until so many peers are done.

        Returns too when the operation has been cancelled: `readers_done` says how many were.

        Parameters
        ----------
        count
            How many.
        timeout
            Seconds to wait at most; the operation goes on when they have passed.

        Raises
        ------
        WaitTimeoutError
            When `timeout` has passed.
        TransferError
            When the operation has failed before so many were done.
        """
        count = check_count(count, "count", 1, _ANY_NUMBER)
        if timeout is not None:
            timeout = check_timeout(timeout)
        core = self._core
        if core.readers_done >= count:
            return
        if not await _asyncio.wait_for(partial(core.notify_readers, count), core.forget, timeout):
            raise WaitTimeoutError(
                f"{self!r}: {core.readers_done} of {count} are done after {timeout} s; it goes on"
            )
        if core.readers_done < count:
            self._raise_failure()

    def metadata(self, hex_encode: bool = False) -> RdmaMetadata:
        """What to send to the peer, by any channel.

        Parameters
        ----------
        hex_encode
            Write `RdmaMetadata.nixl_metadata` in hexadecimal, as peers before ``b64:`` expect.

        Raises
        ------
        ValueError
            When the memory has been moved since it was offered: a tensor's storage was resized.
        TransferError
            When the memory could not be registered, or the operation has failed or was
            cancelled.
        """
        hex_encode = check_flag(hex_encode, "hex_encode")
        request = self._serialized_requests.get(hex_encode)
        if request is None:
            check_addresses(self._local_desc_list)
            descriptors = self._serialized_descriptors
            if descriptors is None:
                self._core.share()
                request = RdmaMetadata._of_core(self._core_draft(hex_encode))
            else:
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

    def wire(self) -> bytes:
        """What `metadata` gives, as bytes, for a channel that carries them.

        `Connector.begin_read` and `Connector.begin_write` take them as they are. They are fewer
        than its JSON, and are made without a Python object for each piece of memory: of 4,096
        pieces and more before the call that made the operation returns, without holding its
        event loop.

        Raises
        ------
        ValueError
            When the memory has been moved since it was offered: a tensor's storage was resized.
        TransferError
            When the memory could not be registered, or the operation has failed or was
            cancelled.
        """
        message = self._draft()
        if not self._shared:
            self._core.share()
            self._shared = True
        return message

    def _draft(self) -> bytes:
        """What `wire` gives, before anybody has it."""
        if self._wire is None:
            check_addresses(self._local_desc_list)
            metadata = self._core_draft(False)
            if self._connector._auth_key is not None:
                metadata.notification_key = _signing.signed_key(self._connector._auth_key, metadata)
            self._wire = metadata.to_bytes()
        return self._wire

    def _core_draft(self, hex_encode: bool) -> _core.RdmaMetadata:
        return self._core.draft(hex_encode, count_of(self._local_desc_list))


class ActiveOperation(AbstractOperation):
    """The side that was given metadata, and reads or writes."""

    _remote: Remote | None = None

    @abstractmethod
    def __init__(
        self,
        connection: Connection,
        operation_kind: OperationKind,
        local_descriptors: LocalDescriptors,
        remote_metadata: RemoteMetadata,
        timeout: SupportsFloat | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
        nixl_connection_metadata: NixlMetadata | None = None,
    ) -> None:
        begin = core_of(connection).begin
        local = as_descriptors(local_descriptors)
        auth_key = connection._connector._auth_key
        remote = _signing.received(auth_key, remote_metadata, count_of(local))
        if nixl_connection_metadata is not None:
            _signing.refuse_unsigned(auth_key, "nixl_connection_metadata")
            remote = with_connection(remote, nixl_connection_metadata)
        after = _streams.fences(stream, local)
        core = begin(operation_kind, remote, local, core_timeout(timeout), after)
        super().__init__(connection, core, operation_kind, local)

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
    readers
        For how many peers; None for any number.
    """

    def __init__(
        self,
        connection: Connection,
        local_descriptors: LocalDescriptors,
        timeout: SupportsFloat | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
        readers: SupportsIndex | None = 1,
    ) -> None:
        super().__init__(
            connection, OperationKind.READ, local_descriptors, timeout, stream, readers
        )


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
    writers
        For how many peers; None for any number.
    """

    def __init__(
        self,
        connection: Connection,
        local_descriptors: LocalDescriptors,
        timeout: SupportsFloat | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
        writers: SupportsIndex | None = 1,
    ) -> None:
        super().__init__(
            connection, OperationKind.WRITE, local_descriptors, timeout, stream, writers
        )


class ReadOperation(ActiveOperation):
    """Reads what a `ReadableOperation` offers; under way from the moment it is made.

    Parameters
    ----------
    connection
        Any connection of the connector to use.
    remote_metadata
        What the peer sent: a model, or bytes.
    local_descriptors
        Where the data is to arrive: writable, as many and of the same sizes as the remote's.
    timeout
        Seconds until the operation fails with `DeadlineExceededError`; None for no deadline.
    stream
        The CUDA stream whose work so far must be done first, as of `Connector.create_readable`.
    nixl_connection_metadata
        As of `Connector.begin_read`.
    """

    def __init__(
        self,
        connection: Connection,
        remote_metadata: RemoteMetadata,
        local_descriptors: LocalDescriptors,
        timeout: SupportsFloat | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
        nixl_connection_metadata: NixlMetadata | None = None,
    ) -> None:
        super().__init__(
            connection,
            OperationKind.READ,
            local_descriptors,
            remote_metadata,
            timeout,
            stream,
            nixl_connection_metadata,
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
        What the peer sent: a model, or bytes.
    timeout
        Seconds until the operation fails with `DeadlineExceededError`; None for no deadline.
    stream
        The CUDA stream whose work so far must be done first, as of `Connector.create_readable`.
    nixl_connection_metadata
        As of `Connector.begin_read`.
    """

    def __init__(
        self,
        connection: Connection,
        local_descriptors: LocalDescriptors,
        remote_metadata: RemoteMetadata,
        timeout: SupportsFloat | Default | None = Default.TIMEOUT,
        stream: object = Default.STREAM,
        nixl_connection_metadata: NixlMetadata | None = None,
    ) -> None:
        super().__init__(
            connection,
            OperationKind.WRITE,
            local_descriptors,
            remote_metadata,
            timeout,
            stream,
            nixl_connection_metadata,
        )
