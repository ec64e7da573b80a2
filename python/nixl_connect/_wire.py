"""Metadata in the forms that it travels in, and what is done with all of them alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, Union

from . import _core
from .errors import RejectedMetadataError

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from .metadata import RdmaMetadata

__all__ = [
    "AnyMetadata",
    "NixlMetadata",
    "RemoteMetadata",
    "decode",
    "is_model",
    "join",
    "load_models",
    "of_agent",
    "with_connection",
]

RemoteMetadata: TypeAlias = Union["RdmaMetadata", bytes, bytearray, memoryview]
"""What an active operation is given: a model, or bytes."""


def load_models() -> None:
    """Load `nixl_connect.metadata`, if that has not been done.

    Its models are what the package needs pydantic for, which takes longer to import than all the
    rest.
    """
    from . import metadata  # noqa: F401


def is_model(metadata: object) -> TypeIs[RdmaMetadata]:
    """Whether it is a `RdmaMetadata`; of bytes and text without loading the models."""
    if isinstance(metadata, (bytes, bytearray, memoryview, str)):
        return False
    from .metadata import RdmaMetadata

    return isinstance(metadata, RdmaMetadata)


NixlMetadata: TypeAlias = bytes | str
"""A NIXL blob, or its text as `RdmaMetadata.nixl_metadata` has it."""
_NIXL_BLOB = b"nixlSerDes|"


def decode(nixl_metadata: NixlMetadata, argument: str = "nixl_metadata") -> bytes:
    """The NIXL blob, which is not looked into."""
    if not isinstance(nixl_metadata, (bytes, str)):
        raise TypeError(f"{argument}: expected bytes or str, got {type(nixl_metadata).__name__}")
    if not nixl_metadata:
        raise RejectedMetadataError(f"{argument}: cannot be empty")
    if isinstance(nixl_metadata, str):
        return _core.decode_nixl_metadata(nixl_metadata)
    return nixl_metadata


def of_agent(remote_metadata: RemoteMetadata | str) -> RemoteMetadata:
    """The metadata of a peer's agent or operation, in the form of an operation's."""
    if isinstance(remote_metadata, str):
        return _with_agent_only(remote_metadata)
    if is_model(remote_metadata):
        return remote_metadata
    if not isinstance(remote_metadata, (bytes, bytearray, memoryview)):
        raise TypeError(
            "remote_metadata: expected RdmaMetadata, bytes or str, got "
            + type(remote_metadata).__name__
        )
    data = bytes(remote_metadata)
    if not data.startswith(_NIXL_BLOB):
        return data
    return _with_agent_only(_core.encode_nixl_metadata(data, False))


def _with_agent_only(nixl_metadata: str) -> RdmaMetadata:
    from .metadata import RdmaMetadata

    return RdmaMetadata._of([], nixl_metadata, "", 0)


def join(connection: NixlMetadata, buffer: NixlMetadata) -> bytes:
    """One NIXL blob of two: `connection` says how to reach an agent, `buffer` has its regions."""
    argument = "nixl_connection_metadata"
    return _core.join_nixl_metadata(decode(connection, argument), decode(buffer))


AnyMetadata: TypeAlias = Union["RdmaMetadata", _core.RdmaMetadata]
"""An operation's metadata: the model, or the core's form."""


def with_connection(metadata: AnyMetadata | bytes, connection: NixlMetadata) -> AnyMetadata:
    """An operation's metadata, with how to reach its agent from elsewhere."""
    if isinstance(metadata, bytes):
        metadata = _core.RdmaMetadata.from_bytes(metadata)
    blob = join(connection, metadata.nixl_metadata)
    text = _core.encode_nixl_metadata(blob, False)
    if is_model(metadata):
        return metadata.model_copy(update={"nixl_metadata": text})
    metadata.nixl_metadata = text
    return metadata
