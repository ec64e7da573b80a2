from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import nixl_connect as nc
import pytest
from conftest import DYNAMO, StartPeer, needs_dynamo
from hypothesis import given
from hypothesis import strategies as st
from nixl_connect import _signing

KEY = b"a secret of enough bytes"


@pytest.fixture
def signer() -> Iterator[nc.Connector]:
    with nc.Connector("signer", auth_key=KEY) as made:
        yield made


@pytest.fixture
def checker() -> Iterator[nc.Connector]:
    with nc.Connector("checker", auth_key=KEY) as made:
        yield made


async def read(offer: nc.ReadableOperation, metadata: nc.RdmaMetadata, by: nc.Connector) -> bytes:
    target = bytearray(offer.local_descriptors[0].size)
    async with by.begin_read(metadata, nc.Descriptor(target)) as operation:
        await asyncio.gather(operation.wait_for_completion(), offer.wait_for_completion())
    return bytes(target)


@pytest.mark.parametrize("hex_encode", [False, True])
async def test_signed_metadata_is_taken(
    signer: nc.Connector, checker: nc.Connector, other: nc.Connector, hex_encode: bool
) -> None:
    for peer in (checker, signer, other):
        offer = await signer.create_readable(nc.Descriptor(bytearray(b"abc")))
        metadata = nc.RdmaMetadata.model_validate_json(offer.metadata(hex_encode).model_dump_json())
        assert await read(offer, metadata, peer) == b"abc"


async def test_what_is_not_signed_so_is_refused(
    signer: nc.Connector, checker: nc.Connector, other: nc.Connector
) -> None:
    first = await signer.create_readable(nc.Descriptor(bytearray(b"abc")))
    second = await signer.create_readable(nc.Descriptor(bytearray(b"xyz")))
    unsigned = await other.create_readable(nc.Descriptor(bytearray(b"abc")))
    metadata, another = first.metadata(), second.metadata()
    plain_key = metadata.notification_key.partition(".")[0]
    region = metadata.descriptors[0]

    def changed(**update: Any) -> nc.RdmaMetadata:
        return metadata.model_copy(update=update)

    refused = {
        "unsigned": unsigned.metadata(),
        "stripped": changed(notification_key=plain_key),
        "another key": _signing.sign(
            b"another secret, as long", changed(notification_key=plain_key)
        ),
        "other memory": changed(descriptors=[region.model_copy(update={"ptr": region.ptr + 1})]),
        "longer": changed(descriptors=[region.model_copy(update={"size": 4})]),
        "other kind": changed(operation_kind=2),
        "another's metadata": changed(nixl_metadata=first.metadata(True).nixl_metadata),
        "another's signature": changed(notification_key=another.notification_key),
        "another's memory": changed(descriptors=another.descriptors),
        # Refused before it is parsed.
        "garbage": changed(nixl_metadata="b64:" + "x" * 100),
    }
    for what, bad in refused.items():
        with pytest.raises(nc.RejectedMetadataError, match="not signed with this connector's"):
            await checker.begin_read(bad, nc.Descriptor(bytearray(bad.descriptors[0].size)))
        assert what
    assert await read(first, metadata, checker) == b"abc"


@needs_dynamo
async def test_a_peer_that_knows_nothing_of_it_can_use_it(
    start_peer: StartPeer, signer: nc.Connector
) -> None:
    peer = await start_peer(DYNAMO)
    offer = await signer.create_readable(nc.Descriptor(bytearray(100)))
    moved = await peer.ask(
        "begin", kind="read", sizes=[100], seed=0, metadata=offer.metadata().model_dump()
    )
    assert moved["status"] == "DONE", moved
    await offer.wait_for_completion(timeout=30)


@given(st.text(max_size=100), st.text(max_size=100), st.integers(1, 2))
def test_every_field_counts(key: str, blob: str, kind: int) -> None:
    metadata = nc.RdmaMetadata(nixl_metadata=blob, notification_key=key, operation_kind=kind)
    signed = _signing.sign(KEY, metadata)
    _signing.verify(KEY, signed)
    for update in (
        {"nixl_metadata": blob + "x"},
        {"notification_key": "x" + signed.notification_key},
        {"operation_kind": 3 - kind},
        {"descriptors": [nc.SerializedDescriptor(ptr=1, size=1)]},
    ):
        with pytest.raises(nc.RejectedMetadataError):
            _signing.verify(KEY, signed.model_copy(update=update))


def test_keys_are_bytes_and_long_enough() -> None:
    with pytest.raises(TypeError, match="auth_key: expected bytes"):
        nc.Connector(auth_key="text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 16 bytes, got 3"):
        nc.Connector(auth_key=b"abc")
