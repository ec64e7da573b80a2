from __future__ import annotations

import base64
import json
import sys
import zlib
from collections.abc import Iterator
from typing import Any, Literal

import nixl_connect as nc
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nixl_connect import _core

FIELDS = ["descriptors", "nixl_metadata", "notification_key", "operation_kind"]


async def test_has_dynamos_fields(connector: nc.Connector) -> None:
    operation = await connector.create_readable(nc.Descriptor(bytearray(10)))
    metadata = operation.metadata()
    assert sorted(metadata.model_dump()) == FIELDS
    assert metadata.operation_kind == 1
    assert metadata.descriptors[0].model_dump() == {
        "device": "cpu",
        "ptr": operation.local_descriptors[0].ptr,
        "size": 10,
    }
    assert nc.RdmaMetadata.model_validate_json(metadata.model_dump_json()) == metadata
    assert nc.RdmaMetadata.model_validate(metadata.model_dump()) == metadata
    assert operation.metadata() is metadata
    writable = await connector.create_writable(nc.Descriptor(bytearray(10)))
    assert writable.metadata().operation_kind == 2


async def test_both_encodings_hold_the_same(connector: nc.Connector) -> None:
    operation = await connector.create_readable(nc.Descriptor(bytearray(10)))
    plain, hexadecimal = operation.metadata(), operation.metadata(hex_encode=True)
    blob = zlib.decompress(bytes.fromhex(hexadecimal.nixl_metadata))
    assert plain.nixl_metadata.startswith("b64:")
    assert zlib.decompress(base64.b64decode(plain.nixl_metadata[4:])) == blob
    assert plain.notification_key == hexadecimal.notification_key
    assert _core.agent_name_of(blob).startswith("left-")


async def test_does_not_grow_with_the_operations_alive(connector: nc.Connector) -> None:
    first = await connector.create_readable(nc.Descriptor(bytearray(64)))
    alive = [await connector.create_readable(nc.Descriptor(bytearray(64))) for _ in range(200)]
    sizes = [
        len(zlib.decompress(base64.b64decode(op.metadata().nixl_metadata[4:])))
        for op in (first, alive[-1])
    ]
    assert sizes[0] == sizes[1]


def test_models_are_frozen_and_forbid_more() -> None:
    metadata = nc.RdmaMetadata(operation_kind=1)
    with pytest.raises(pydantic.ValidationError):
        metadata.operation_kind = 2  # type: ignore[misc]
    with pytest.raises(pydantic.ValidationError, match="extra"):
        nc.RdmaMetadata(operation_kind=1, more=1)  # type: ignore[call-arg]
    with pytest.raises(pydantic.ValidationError, match="extra"):
        nc.SerializedDescriptor(ptr=1, size=1, more=1)  # type: ignore[call-arg]

    class Request(pydantic.BaseModel):
        metadata: nc.RdmaMetadata | None = None

    request = Request(metadata=metadata)
    assert Request.model_validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize(
    "fields",
    [
        {"ptr": 0, "size": 1},
        {"ptr": -1, "size": 1},
        {"ptr": 1 << 64, "size": 1},
        {"ptr": 1, "size": -1},
        {"ptr": 1, "size": 1, "device": "floppy"},
        {"ptr": 1, "size": 1, "device": 3},
        {"ptr": "x", "size": 1},
    ],
)
def test_refuses_impossible_descriptors(fields: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        nc.SerializedDescriptor(**fields)


def numbers(schema: Any) -> Iterator[float]:
    if isinstance(schema, dict):
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from numbers(part)
    elif isinstance(schema, (int, float)):
        yield schema


@pytest.mark.parametrize("model", [nc.RdmaMetadata, nc.SerializedDescriptor])
@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_schemas_are_for_every_reader_of_json(
    model: type[pydantic.BaseModel], mode: Literal["validation", "serialization"]
) -> None:
    schema = model.model_json_schema(mode=mode)
    json.dumps(schema, allow_nan=False)
    # What is an integer to JavaScript too.
    assert all(abs(number) < 1 << 53 for number in numbers(schema))
    pointer = schema.get("$defs", {}).get("SerializedDescriptor", schema)["properties"]["ptr"]
    assert (pointer["exclusiveMinimum"], pointer["format"]) == (0, "uint64")


def test_the_openapi_of_a_service_is_for_every_reader_of_json() -> None:
    fastapi = pytest.importorskip("fastapi", reason="an example installs it")
    app = fastapi.FastAPI()

    def take(metadata: nc.RdmaMetadata) -> nc.RdmaMetadata:
        return metadata

    app.post("/")(take)
    assert all(abs(number) < 1 << 53 for number in numbers(app.openapi()))


def test_the_greatest_address_is_taken() -> None:
    greatest = (1 << 64) - 1
    assert nc.SerializedDescriptor(ptr=greatest, size=greatest).size == greatest
    with pytest.raises(pydantic.ValidationError) as refused:
        nc.SerializedDescriptor(ptr=greatest + 1, size=1)
    assert f"less than or equal to {greatest}" in str(refused.value)


def test_refuses_impossible_kinds() -> None:
    for kind in (-1, 0, 4, "READ"):
        with pytest.raises(pydantic.ValidationError):
            nc.RdmaMetadata(operation_kind=kind)  # type: ignore[arg-type]


def test_to_descriptors() -> None:
    one = nc.SerializedDescriptor(ptr=0x1000, size=1)
    single = nc.RdmaMetadata(descriptors=[one], operation_kind=1).to_descriptors()
    assert isinstance(single, nc.Descriptor)
    assert single.ptr == 0x1000
    pair = nc.RdmaMetadata(descriptors=[one, one], operation_kind=1).to_descriptors()
    assert isinstance(pair, list)
    with pytest.raises(ValueError, match="at least one"):
        nc.RdmaMetadata(operation_kind=1).to_descriptors()


@given(st.binary(max_size=5000), st.booleans())
def test_text_round_trip(blob: bytes, hexadecimal: bool) -> None:
    text = _core.encode_nixl_metadata(blob, hexadecimal)
    assert _core.decode_nixl_metadata(text) == blob
    # Python's own decoders agree, as a peer's will.
    raw = bytes.fromhex(text) if hexadecimal else base64.b64decode(text[4:], validate=True)
    assert zlib.decompress(raw) == blob


@given(st.binary(max_size=5000), st.integers(0, 9))
def test_reads_what_python_writes(blob: bytes, level: int) -> None:
    raw = zlib.compress(blob, level)
    assert _core.decode_nixl_metadata("b64:" + base64.b64encode(raw).decode()) == blob
    assert _core.decode_nixl_metadata(raw.hex()) == blob
    assert _core.decode_nixl_metadata(raw.hex().upper()) == blob


@given(st.text(max_size=200) | st.text(max_size=200).map(lambda text: "b64:" + text))
def test_garbage_is_refused_and_nothing_worse(text: str) -> None:
    with pytest.raises((nc.RejectedMetadataError, UnicodeEncodeError)):
        _core.decode_nixl_metadata(text)


@given(st.binary(max_size=400))
def test_a_garbage_blob_is_refused(blob: bytes) -> None:
    with pytest.raises(nc.RejectedMetadataError):
        _core.agent_name_of(blob)
    with pytest.raises(nc.RejectedMetadataError):
        _core.agent_name_of(b"nixlSerDes|" + blob)


async def test_a_damaged_blob_is_refused_or_read_whole(connector: nc.Connector) -> None:
    """Every truncation is refused; every flipped byte is refused or changes only contents."""
    operation = await connector.create_readable(nc.Descriptor(bytearray(10)))
    blob = zlib.decompress(base64.b64decode(operation.metadata().nixl_metadata[4:]))
    for length in range(len(blob)):
        with pytest.raises(nc.RejectedMetadataError):
            _core.agent_name_of(blob[:length])
    with pytest.raises(nc.RejectedMetadataError, match="after the end"):
        _core.agent_name_of(blob + b"|")
    refused = 0
    for at in range(len(blob)):
        damaged = bytearray(blob)
        damaged[at] ^= 0x40
        try:
            _core.agent_name_of(bytes(damaged))
        except nc.RejectedMetadataError:
            refused += 1
    assert refused > len(blob) // 3


REGIONS = st.builds(
    nc.SerializedDescriptor,
    device=st.sampled_from(["cpu", "cuda:0", "cuda:7", "xpu:1"]),
    ptr=st.integers(1, 1 << 63),
    size=st.integers(0, (1 << 63) - 1),
)
TEXTS = st.one_of(
    st.text(max_size=50),
    st.binary(max_size=50).map(lambda blob: _core.encode_nixl_metadata(blob, False)),
    st.binary(max_size=50).map(lambda blob: _core.encode_nixl_metadata(blob, True)),
)


@given(st.lists(REGIONS, max_size=20), TEXTS, st.text(max_size=50), st.integers(1, 2))
def test_bytes_are_the_same_metadata(
    regions: list[nc.SerializedDescriptor], text: str, key: str, kind: int
) -> None:
    metadata = nc.RdmaMetadata(
        descriptors=regions, nixl_metadata=text, notification_key=key, operation_kind=kind
    )
    assert nc.RdmaMetadata.from_wire(metadata.to_wire()) == metadata


def test_bytes_are_what_validation_takes() -> None:
    with pytest.raises(TypeError, match="data: expected bytes, got str"):
        nc.RdmaMetadata.from_wire("text")  # type: ignore[arg-type]
    with pytest.raises(nc.RejectedMetadataError, match="operation_kind: expected 1"):
        nc.RdmaMetadata.from_wire(nc.RdmaMetadata().to_wire())
    region = nc.SerializedDescriptor.model_construct(ptr=0, size=1)
    nowhere = nc.RdmaMetadata.model_construct(descriptors=[region], operation_kind=1)
    with pytest.raises(nc.RejectedMetadataError, match=r"descriptors\[0\].ptr"):
        nc.RdmaMetadata.from_wire(nowhere.to_wire())
    with pytest.raises(nc.RejectedMetadataError, match="impossible value of 'ptr'"):
        region = nc.SerializedDescriptor.model_construct(ptr=-1, size=1)
        nc.RdmaMetadata.model_construct(descriptors=[region], operation_kind=1).to_wire()


def test_offers_are_written_as_nixl_writes_them(connector: nc.Connector) -> None:
    """From the ninth on it is not asked, where all memory of the host has one remote key."""
    blobs = set()
    kept = []
    for _ in range(20):
        memory = bytearray(5000)
        with connector.create_readable_blocking(memory) as offer:
            blob = _core.decode_nixl_metadata(offer.metadata().nixl_metadata)
            address = offer.local_descriptors[0].ptr.to_bytes(8, sys.byteorder)
            assert blob.count(address) == 1
            blobs.add(blob.replace(address, bytes(8)))
        kept.append(memory)
    assert len(blobs) == 1
