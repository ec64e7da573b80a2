"""Operations: one transfer each, seen from its passive or its active side."""

from __future__ import annotations

from typing import SupportsFloat, SupportsIndex

from ._default import Default
from ._local import LocalDescriptors
from ._operation import AbstractOperation, OperationKind, OperationStatus
from ._remote import Remote
from ._sides import ActiveOperation, PassiveOperation
from ._wire import NixlMetadata, RemoteMetadata
from .connection import Connection

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


class ReadableOperation(PassiveOperation):
    """Memory that a peer may read; complete when the peer has read it.

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

    _kind = OperationKind.READ

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
    """Memory that a peer may write; complete when the peer has written it.

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

    _kind = OperationKind.WRITE

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

    _kind = OperationKind.READ

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

    _kind = OperationKind.WRITE

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
