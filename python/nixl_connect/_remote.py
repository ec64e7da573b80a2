"""The worker at the other side of an operation."""

from __future__ import annotations

from types import TracebackType

from . import _core
from ._wire import NixlMetadata, decode, join
from .connection import Connection, core_of

__all__ = ["Remote"]


class Remote:
    """A remote worker, as named by its metadata.

    Parameters
    ----------
    connection
        The local connection.
    nixl_metadata
        `RdmaMetadata.nixl_metadata`, or a NIXL blob itself as ``bytes``. It is checked from the
        first byte to the last; NIXL gets it when an operation begins.
    nixl_connection_metadata
        How to reach the agent, in the same forms, when `nixl_metadata` has only its regions.

    Raises
    ------
    TypeError
        When an argument is of another type.
    RejectedMetadataError
        When the metadata is no such thing.
    """

    def __init__(
        self,
        connection: Connection,
        nixl_metadata: NixlMetadata,
        *,
        nixl_connection_metadata: NixlMetadata | None = None,
    ) -> None:
        core_of(connection)
        blob = self.decode_metadata(nixl_metadata)
        if nixl_connection_metadata is not None:
            blob = join(nixl_connection_metadata, blob)
        self._connection = connection
        self._name = _core.agent_name_of(blob)

    @staticmethod
    def decode_metadata(nixl_metadata: NixlMetadata) -> bytes:
        """The NIXL blob in `RdmaMetadata.nixl_metadata`; bytes are one already.

        The blob's content is not checked here; making a `Remote` of it checks it.

        Raises
        ------
        TypeError
            When it is neither bytes nor str.
        RejectedMetadataError
            When it is empty, or no base64 or hexadecimal of a zlib stream.
        """
        return decode(nixl_metadata)

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
        self._release()

    def _release(self) -> None:
        """Nothing to do: what was loaded for a peer serves its next operations.

        Dynamo's callers up to 1.0.2 put a function of theirs here.
        """

    def __repr__(self) -> str:
        return f"Remote(name={self._name!r}, connection={self._connection.name!r})"

    def __str__(self) -> str:
        return self._name
