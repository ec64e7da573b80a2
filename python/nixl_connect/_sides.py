"""The two sides of a transfer: who offers memory, and who reads or writes it."""

from __future__ import annotations

import logging
import sys
from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, SupportsFloat, SupportsIndex, TypeVar

from . import _asyncio, _core, _signing, _streams
from ._arguments import check_count, check_flag, check_timeout
from ._default import Default
from ._local import Local, LocalDescriptors, as_descriptors, check_addresses, count_of, is_large
from ._operation import AbstractOperation, OperationKind, OperationStatus
from ._remote import Remote
from ._wire import AnyMetadata, NixlMetadata, RemoteMetadata, with_connection
from .connection import AnyConnector, Connection, core_of
from .descriptor import Descriptor, DescriptorList
from .errors import WaitTimeoutError

if TYPE_CHECKING:
    from .metadata import RdmaMetadata, SerializedDescriptor

__all__ = ["ActiveOperation", "PassiveOperation", "PassiveT", "prepared", "received_from"]

_log = logging.getLogger("nixl_connect")
_ANY_NUMBER = 0x7FFFFFFF
_WAITING = int(OperationStatus.INITIALIZED)

PassiveT = TypeVar("PassiveT", bound="PassiveOperation")


def prepared(local_descriptors: LocalDescriptors, stream: object) -> tuple[Local, _streams.Fences]:
    """What an operation has of what its caller gave, and what it waits for."""
    local = as_descriptors(local_descriptors)
    return local, _streams.fences(stream, local)


def received_from(
    connector: AnyConnector,
    remote_metadata: RemoteMetadata,
    nixl_connection_metadata: NixlMetadata | None,
    local: Local,
) -> AnyMetadata | bytes:
    """What a peer sent, checked as far as the core does not."""
    auth_key = connector._auth_key
    remote = _signing.received(auth_key, remote_metadata, count_of(local))
    if nixl_connection_metadata is not None:
        _signing.refuse_unsigned(auth_key, "nixl_connection_metadata")
        remote = with_connection(remote, nixl_connection_metadata)
    return remote


class PassiveOperation(AbstractOperation):
    """The side that offers memory and waits for a peer to act."""

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
        core_of(connection)
        local, after = prepared(local_descriptors, stream)
        self._kind = operation_kind
        _core.start(self, connection._connector, local, after, timeout, places)

    def __del__(self) -> None:
        # The peer that was sent the metadata will find it closed, and cannot know why.
        sent = self._request or self._hex_request or self._shared
        if sent and self._core.status == _WAITING and not sys.is_finalizing():
            _log.warning(
                "%s was collected before its peer came, which withdraws the offer: keep it until "
                "it has ended, as `async with` and `wait_for_completion` do",
                repr(self),
                extra=self._log_fields("withdrawn"),
            )

    @property
    def readers_done(self) -> int:
        """How many peers have read the offered memory, or written it."""
        return self._core.readers_done

    @property
    def readers_failed(self) -> int:
        """How many peers have failed, or died, after they had begun.

        An operation for several peers still waits for the others. It fails with
        `RemoteFailedError` when all of them have ended.
        """
        return self._core.readers_failed

    async def wait_for_readers(
        self, count: SupportsIndex, timeout: SupportsFloat | None = None
    ) -> None:
        """Wait, without blocking the event loop, until `count` peers are done.

        Also returns when the operation has been cancelled: `readers_done` says how many were done.

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
            When the operation has failed before `count` peers were done.
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
            Write `RdmaMetadata.nixl_metadata` in hexadecimal, as peers older than ``b64:`` expect.

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
        from .metadata import RdmaMetadata

        local = self._local_desc_list
        check_addresses(local)
        core = self._core
        if is_large(local) or not core.offers(local):
            core.share()
            request = RdmaMetadata._of_core(core.draft(hex_encode, count_of(local)))
        else:
            descriptors = [local.metadata] if isinstance(local, Descriptor) else _serialized(local)
            text = core.nixl_metadata(hex_encode)
            request = RdmaMetadata._of(descriptors, text, core.notification_key, int(self._kind))
        if self._connector._auth_key is not None:
            request = _signing.sign(self._connector._auth_key, request)
        return request

    def wire(self) -> bytes:
        """What `metadata` gives, as bytes, for a channel that carries bytes.

        `Connector.begin_read` and `Connector.begin_write` take them as they are. They are fewer
        than the JSON of `metadata`, and are made without a Python object for each piece of memory.
        For 4,096 pieces and more they are made before the call that made the operation returns,
        without blocking the event loop.

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
            local = self._local_desc_list
            check_addresses(local)
            key = self._connector._auth_key
            if key is None:
                self._wire = self._core.wire(count_of(local))
            else:
                metadata = self._core.draft(False, count_of(local))
                metadata.notification_key = _signing.signed_key(key, metadata)
                self._wire = metadata.to_bytes()
        return self._wire


def _serialized(local: list[Descriptor] | DescriptorList) -> list[SerializedDescriptor]:
    return local.metadata if isinstance(local, DescriptorList) else [d.metadata for d in local]


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
        core_of(connection)
        local, after = prepared(local_descriptors, stream)
        self._kind = operation_kind
        arguments = timeout, remote_metadata, nixl_connection_metadata
        _core.start(self, connection._connector, local, after, *arguments)

    @property
    def remote(self) -> Remote:
        """The worker that offered the memory."""
        if self._remote is None:
            self._remote = Remote._named(self.connection, self._core.remote_name)
        return self._remote
