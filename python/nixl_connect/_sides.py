"""The two sides of a transfer: who offers memory, and who reads or writes it."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import ClassVar, SupportsFloat, SupportsIndex, TypeVar

from . import _asyncio, _core, _signing, _streams
from ._arguments import check_count, check_flag, check_timeout, core_timeout
from ._default import Default
from ._local import Local, LocalDescriptors, as_descriptors, check_addresses, count_of, is_large
from ._operation import AbstractOperation, OperationKind
from ._remote import Remote
from .connection import Connection, core_of
from .descriptor import Descriptor, DescriptorList, SerializedDescriptor
from .errors import WaitTimeoutError
from .metadata import NixlMetadata, RdmaMetadata, RemoteMetadata, with_connection

__all__ = ["ActiveOperation", "ActiveT", "PassiveOperation", "PassiveT"]

_ANY_NUMBER = 0x7FFFFFFF

PassiveT = TypeVar("PassiveT", bound="PassiveOperation")
ActiveT = TypeVar("ActiveT", bound="ActiveOperation")


class PassiveOperation(AbstractOperation):
    """The side that offers memory and waits for a peer to act."""

    _kind: ClassVar[OperationKind]

    _request: RdmaMetadata | None = None
    _hex_request: RdmaMetadata | None = None
    _wire: bytes | None = None
    _shared = False

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
        self._offer(connection, operation_kind, local, timeout, after, places)

    @classmethod
    def _of(
        cls: type[PassiveT],
        connection: Connection,
        local: Local,
        timeout: SupportsFloat | Default | None,
        after: _streams.Fences,
        places: SupportsIndex | None,
    ) -> PassiveT:
        """Of what has been looked at already."""
        made = cls.__new__(cls)
        made._offer(connection, cls._kind, local, timeout, after, places)
        return made

    def _offer(
        self,
        connection: Connection,
        kind: OperationKind,
        local: Local,
        timeout: SupportsFloat | Default | None,
        after: _streams.Fences,
        places: SupportsIndex | None,
    ) -> None:
        if places is None:
            places = _ANY_NUMBER
        elif places != 1:
            what = "readers" if kind is OperationKind.READ else "writers"
            places = check_count(places, what, 1, _ANY_NUMBER)
        core = core_of(connection)
        self._core = core.create(kind, local, core_timeout(timeout), after, places)
        self._connector = connection._connector
        self._operation_kind = kind
        self._local_desc_list = local
        # Taken now: what is registered is what the metadata names.
        # A list that cannot change can wait, and the core has those of a long one.
        self._serialized_descriptors: list[SerializedDescriptor] | DescriptorList | None
        if isinstance(local, Descriptor):
            self._serialized_descriptors = [local.metadata]
        elif isinstance(local, DescriptorList):
            self._serialized_descriptors = local
        else:
            large = is_large(local)
            self._serialized_descriptors = None if large else [d.metadata for d in local]

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
        if hex_encode is not False and check_flag(hex_encode, "hex_encode"):
            if self._hex_request is None:
                self._hex_request = self._make_request(True)
            return self._hex_request
        if self._request is None:
            self._request = self._make_request(False)
        return self._request

    def _make_request(self, hex_encode: bool) -> RdmaMetadata:
        check_addresses(self._local_desc_list)
        core = self._core
        descriptors = self._serialized_descriptors
        if descriptors is None:
            core.share()
            request = RdmaMetadata._of_core(self._core_draft(hex_encode))
        else:
            if isinstance(descriptors, DescriptorList):
                descriptors = descriptors.metadata
            text = core.nixl_metadata(hex_encode)
            kind = int(self._operation_kind)
            request = RdmaMetadata._of(descriptors, text, core.notification_key, kind)
        if self._connector._auth_key is not None:
            request = _signing.sign(self._connector._auth_key, request)
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

    _kind: ClassVar[OperationKind]
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
        local = as_descriptors(local_descriptors)
        after = _streams.fences(stream, local)
        self._begin(
            connection,
            operation_kind,
            local,
            remote_metadata,
            timeout,
            after,
            nixl_connection_metadata,
        )

    @classmethod
    def _of(
        cls: type[ActiveT],
        connection: Connection,
        local: Local,
        remote_metadata: RemoteMetadata,
        timeout: SupportsFloat | Default | None,
        after: _streams.Fences,
        nixl_connection_metadata: NixlMetadata | None,
    ) -> ActiveT:
        """Of what has been looked at already, but for the metadata."""
        made = cls.__new__(cls)
        made._begin(
            connection, cls._kind, local, remote_metadata, timeout, after, nixl_connection_metadata
        )
        return made

    def _begin(
        self,
        connection: Connection,
        kind: OperationKind,
        local: Local,
        remote_metadata: RemoteMetadata,
        timeout: SupportsFloat | Default | None,
        after: _streams.Fences,
        nixl_connection_metadata: NixlMetadata | None,
    ) -> None:
        core = core_of(connection)
        connector = connection._connector
        remote = _signing.received(connector._auth_key, remote_metadata, count_of(local))
        if nixl_connection_metadata is not None:
            _signing.refuse_unsigned(connector._auth_key, "nixl_connection_metadata")
            remote = with_connection(remote, nixl_connection_metadata)
        self._core = core.begin(kind, remote, local, core_timeout(timeout), after)
        self._connector = connector
        self._operation_kind = kind
        self._local_desc_list = local

    @property
    def remote(self) -> Remote:
        """The worker that offered the memory."""
        if self._remote is None:
            self._remote = Remote._named(self.connection, self._core.remote_name)
        return self._remote
