"""What the passive side sends to the active side, as pydantic models.

The models are the wire form of ``dynamo.nixl_connect``: the same fields with the same
meanings, so that each side may be either library. They can be fields of other models.
"""

from __future__ import annotations

from typing import TypeAlias

from pydantic import BaseModel, ConfigDict, field_validator

from . import _core
from .descriptor import Descriptor, SerializedDescriptor
from .errors import RejectedMetadataError

__all__ = [
    "AnyMetadata",
    "NixlMetadata",
    "RdmaMetadata",
    "RemoteMetadata",
    "SerializedDescriptor",
    "as_bytes",
    "decode",
    "join",
    "of_agent",
    "with_connection",
]

_CONFIG = ConfigDict(extra="forbid", frozen=True)
_FIELDS = {"descriptors", "nixl_metadata", "notification_key", "operation_kind"}


class RdmaMetadata(BaseModel):
    """All that the active side needs to read or write what the passive side offers."""

    model_config = _CONFIG

    descriptors: list[SerializedDescriptor] = []
    """The offered regions, in order."""
    nixl_metadata: str = ""
    """NIXL's description of the agent and the regions: ``b64:`` and base64 of a zlib stream,
    or, from older peers, the stream in hexadecimal."""
    notification_key: str = ""
    """Names the operation; the active side sends it back as a notification when it is done."""
    operation_kind: int = 0
    """An `OperationKind`: 1 when the regions may be read, 2 when they may be written."""

    @field_validator("operation_kind")
    @classmethod
    def _check_operation_kind(cls, value: int) -> int:
        # Dynamo's range; `begin_read` and `begin_write` take their own kind only.
        if not 1 <= value <= 3:
            raise ValueError(f"operation_kind: expected 1 (READ) or 2 (WRITE), got {value}")
        return value

    @classmethod
    def _of(
        cls,
        descriptors: list[SerializedDescriptor],
        nixl_metadata: str,
        notification_key: str,
        operation_kind: int,
    ) -> RdmaMetadata:
        """As `model_construct` with all fields, at an eighth of its cost."""
        made = object.__new__(cls)
        made.__dict__.update(
            descriptors=descriptors,
            nixl_metadata=nixl_metadata,
            notification_key=notification_key,
            operation_kind=operation_kind,
        )
        put = object.__setattr__
        put(made, "__pydantic_fields_set__", _FIELDS.copy())
        put(made, "__pydantic_extra__", None)
        put(made, "__pydantic_private__", None)
        return made

    @classmethod
    def from_wire(cls, data: bytes | bytearray | memoryview) -> RdmaMetadata:
        """Make a model from the bytes that `to_wire` or `PassiveOperation.wire` returned.

        Operations accept the bytes directly, without an object for each piece of memory.

        Raises
        ------
        TypeError
            When `data` is no bytes.
        RejectedMetadataError
            When the bytes are no metadata; the error says what is wrong and at which byte.
        """
        return cls._of_core(_core.RdmaMetadata.from_bytes(as_bytes(data, "data")))

    @classmethod
    def _of_core(cls, metadata: _core.RdmaMetadata) -> RdmaMetadata:
        # What the model's validation would refuse.
        if not metadata.operation_kind:
            raise RejectedMetadataError("operation_kind: expected 1 (READ) or 2 (WRITE), got 0")
        construct = SerializedDescriptor.model_construct
        descriptors = []
        for i in range(len(metadata)):
            device, ptr, size = metadata.descriptor(i)
            if not ptr:
                raise RejectedMetadataError(f"descriptors[{i}].ptr: expected an address, got 0")
            descriptors.append(construct(device=device, ptr=ptr, size=size))
        return cls._of(
            descriptors, metadata.nixl_metadata, metadata.notification_key, metadata.operation_kind
        )

    def to_wire(self) -> bytes:
        """The metadata as bytes, fewer than its JSON: see `PassiveOperation.wire`.

        Raises
        ------
        RejectedMetadataError
            When the model was made without validation, and has values that metadata cannot have.
        ValueError
            When it has more than 1,048,576 descriptors.
        """
        return _core.RdmaMetadata.from_model(self).to_bytes()

    def to_descriptors(self) -> Descriptor | list[Descriptor]:
        """The offered regions: a single descriptor, or a list when there are several.

        Their addresses mean nothing in this process, and are not looked at.

        Raises
        ------
        ValueError
            When there are none.
        """
        if not self.descriptors:
            raise ValueError("descriptors: expected at least one, got none")
        if len(self.descriptors) == 1:
            return self.descriptors[0].to_descriptor()
        return [item.to_descriptor() for item in self.descriptors]


RemoteMetadata: TypeAlias = RdmaMetadata | bytes | bytearray | memoryview
"""What an active operation is given: a model, or bytes."""


def as_bytes(data: bytes | bytearray | memoryview, argument: str) -> bytes:
    """Bytes that nobody changes."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"{argument}: expected bytes, got {type(data).__name__}")
    return bytes(data)


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
    if isinstance(remote_metadata, RdmaMetadata):
        return remote_metadata
    if isinstance(remote_metadata, str):
        return RdmaMetadata._of([], remote_metadata, "", 0)
    if not isinstance(remote_metadata, (bytes, bytearray, memoryview)):
        raise TypeError(
            "remote_metadata: expected RdmaMetadata, bytes or str, got "
            + type(remote_metadata).__name__
        )
    data = as_bytes(remote_metadata, "remote_metadata")
    if not data.startswith(_NIXL_BLOB):
        return data
    return RdmaMetadata._of([], _core.encode_nixl_metadata(data, False), "", 0)


def join(connection: NixlMetadata, buffer: NixlMetadata) -> bytes:
    """One NIXL blob of two: `connection` says how to reach an agent, `buffer` has its regions."""
    argument = "nixl_connection_metadata"
    return _core.join_nixl_metadata(decode(connection, argument), decode(buffer))


AnyMetadata: TypeAlias = RdmaMetadata | _core.RdmaMetadata
"""An operation's metadata: the model, or the core's form."""


def with_connection(metadata: AnyMetadata | bytes, connection: NixlMetadata) -> AnyMetadata:
    """An operation's metadata, with how to reach its agent from elsewhere."""
    if isinstance(metadata, bytes):
        metadata = _core.RdmaMetadata.from_bytes(metadata)
    blob = join(connection, metadata.nixl_metadata)
    text = _core.encode_nixl_metadata(blob, False)
    if isinstance(metadata, RdmaMetadata):
        return metadata.model_copy(update={"nixl_metadata": text})
    metadata.nixl_metadata = text
    return metadata
