"""The worker at the other side of an operation."""

from __future__ import annotations

from types import TracebackType

from . import _core
from .connection import Connection, core_of

__all__ = ["Remote"]


class Remote:
    """A remote worker, as named by its metadata.

    Parameters
    ----------
    connection
        The local connection.
    nixl_metadata
        `RdmaMetadata.nixl_metadata`, or a NIXL blob itself as ``bytes``. Checked from the first
        byte to the last; NIXL is given it when an operation begins.

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
