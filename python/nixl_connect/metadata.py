"""What the passive side sends to the active side, as pydantic models.

The models are the wire form of ``dynamo.nixl_connect``: the same fields with the same
meanings, so that each side may be either library. They can be fields of other models.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from . import _core
from .descriptor import Descriptor
from .device import Device
from .errors import RejectedMetadataError

__all__ = ["RdmaMetadata", "SerializedDescriptor"]

_CONFIG = ConfigDict(extra="forbid", frozen=True)
_UINT64_MAX = (1 << 64) - 1
_FIELDS = {"descriptors", "nixl_metadata", "notification_key", "operation_kind"}


@lru_cache(maxsize=256)
def _wire_device(name: str) -> str:
    text = name.strip().lower()
    Device(text)
    return text


def _as_uint64(schema: dict[str, Any]) -> None:
    """Name the upper limit: as a number it is beyond what many readers of JSON take."""
    schema.pop("maximum", None)
    schema["format"] = "uint64"


class SerializedDescriptor(BaseModel):
    """A region of the passive side's memory."""

    model_config = _CONFIG

    device: str = "cpu"
    """``"cpu"``, ``"cuda:<id>"`` or ``"xpu:<id>"``."""
    ptr: int = Field(0, gt=0, le=_UINT64_MAX, json_schema_extra=_as_uint64)
    """Address of the first byte, in the passive side's process; never 0."""
    size: int = Field(0, ge=0, le=_UINT64_MAX, json_schema_extra=_as_uint64)
    """Bytes."""

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        return _wire_device(value)

    def to_descriptor(self) -> Descriptor:
        """The region as a `Descriptor`; its address means nothing in this process.

        Raises
        ------
        ValueError
            When the region is empty.
        """
        return Descriptor._of_peer(self)


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
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data: expected bytes, got {type(data).__name__}")
        return cls._of_core(_core.RdmaMetadata.from_bytes(bytes(data)))

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
