"""Peers that are connected to before the first transfer, and agents that are made before it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
from collections.abc import Callable
from typing import Any

import nixl_connect as nc
import numpy as np
import pytest
from conftest import DYNAMO, OURS, StartPeer, eventually, needs_dynamo

SIZE = 4096
FIRST = 7

Forms = Callable[[nc.PassiveOperation], Any]


async def has_peers(connector: nc.Connector, count: int) -> bool:
    return await eventually(lambda: connector.stats().peers == count)


async def move(reader: nc.Connector, metadata: nc.RdmaMetadata | bytes) -> None:
    target = np.zeros(SIZE, dtype=np.uint8)
    async with reader.begin_read(metadata, target) as reading:
        await reading.wait_for_completion(30)
    assert (target == FIRST).all()


@pytest.mark.parametrize(
    "form",
    [
        lambda offer: offer.metadata(),
        lambda offer: offer.metadata(hex_encode=True),
        lambda offer: offer.wire(),
        lambda offer: memoryview(offer.wire()),
        lambda offer: offer.metadata().nixl_metadata,
        lambda offer: offer.connection.metadata,
        lambda offer: bytearray(offer.connection.metadata),
    ],
    ids=["model", "hexadecimal", "wire", "view", "text", "agent", "agent's bytearray"],
)
async def test_whatever_a_peer_sends_serves(
    connector: nc.Connector, other: nc.Connector, form: Forms
) -> None:
    source = np.full(SIZE, FIRST, dtype=np.uint8)
    async with connector.create_readable(source) as offer:
        await other.connect(form(offer))
        assert await has_peers(other, 1)
        assert offer.status is nc.OperationStatus.INITIALIZED
        await move(other, offer.metadata())
        await offer.wait_for_completion(30)
    assert await has_peers(other, 1)


@pytest.mark.rdma
async def test_the_first_transfer_makes_no_endpoint(
    connector: nc.Connector, other: nc.Connector
) -> None:
    source = np.full(SIZE, FIRST, dtype=np.uint8)
    async with connector.create_readable(source, readers=None) as offer:
        await asyncio.gather(*[other.connect(offer.metadata()) for _ in range(20)])
        await asyncio.gather(*[move(other, offer.metadata()) for _ in range(20)])
        await offer.wait_for_readers(20, timeout=30)
        await connector.connect(offer.metadata())  # itself
    assert await has_peers(other, 1)


@pytest.mark.rdma
async def test_much_metadata_and_many_engines(other: nc.Connector) -> None:
    memory = np.zeros(64 * 100_000, dtype=np.uint8)
    addresses = memory.ctypes.data + 64 * np.arange(100_000, dtype=np.uint64)
    pieces = nc.DescriptorList(addresses, 64, owner=memory)
    nc.Descriptor(memory).register_with_connector(other)
    async with nc.Connector("many", engines=3) as many, other.create_readable(pieces) as offer:
        await asyncio.gather(many.connect(offer.wire()), many.connect(offer.metadata()))
        assert await has_peers(many, 3)


def test_blocking(connector: nc.Connector, other: nc.Connector) -> None:
    source = np.full(SIZE, FIRST, dtype=np.uint8)
    with connector.create_readable_blocking(source) as offer:
        other.connect_blocking(offer.metadata(), timeout=30)
        with pytest.raises(nc.RejectedMetadataError):
            other.connect_blocking("b64:")


@needs_dynamo
async def test_dynamo_s_own_peers(other: nc.Connector, start_peer: StartPeer) -> None:
    owner = await start_peer(DYNAMO)
    sent = (await owner.ask("offer", kind="read", sizes=[SIZE], seed=3))["metadata"]
    metadata = nc.RdmaMetadata.model_validate(sent)
    await other.connect(metadata)
    target = np.zeros(SIZE, dtype=np.uint8)
    async with other.begin_read(metadata, target) as reading:
        await reading.wait_for_completion(30)
    assert (await owner.ask("wait", key=metadata.notification_key))["status"] == "DONE"


@pytest.mark.parametrize(
    ("remote", "error", "message"),
    [
        (5, TypeError, "remote_metadata: expected RdmaMetadata, bytes or str, got int"),
        ("", nc.RejectedMetadataError, "empty"),
        ("b64:abc", nc.RejectedMetadataError, "not base64"),
        (b"abc", nc.RejectedMetadataError, "no magic number"),
        (b"nixlSerDes|", nc.RejectedMetadataError, "truncated"),
    ],
)
async def test_what_is_no_metadata(
    connector: nc.Connector, remote: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await connector.connect(remote)


@pytest.mark.rdma
@pytest.mark.parametrize("claims", ["table", "messages"])
async def test_a_peer_that_has_died(start_peer: StartPeer, claims: str) -> None:
    """Known or not: it is found within seconds, and not at the deadline."""
    owner = await start_peer(OURS)
    sent = (await owner.ask("offer", kind="read", sizes=[SIZE], seed=3))["metadata"]
    metadata = nc.RdmaMetadata.model_validate(sent)
    if claims == "messages":
        # As from another machine.
        key = re.sub("@.", lambda it: "@1" if it[0] == "@2" else "@2", metadata.notification_key)
        metadata = metadata.model_copy(update={"notification_key": key})
    async with nc.Connector("known") as known, nc.Connector("new") as new:
        await known.connect(metadata, timeout=30)
        os.kill(owner.process.pid, signal.SIGKILL)
        await owner.process.wait()
        for connector in (known, new):
            with pytest.raises((nc.PeerUnreachableError, nc.PeerDisconnectedError)):
                await connector.connect(metadata, timeout=60)


@pytest.mark.rdma
async def test_a_peer_that_is_stopped_does_not_answer(
    connector: nc.Connector, start_peer: StartPeer
) -> None:
    owner = await start_peer(OURS)
    sent = (await owner.ask("offer", kind="read", sizes=[SIZE], seed=3))["metadata"]
    metadata = nc.RdmaMetadata.model_validate(sent)
    os.kill(owner.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(nc.DeadlineExceededError, match="the peer has not answered"):
            await connector.connect(metadata, timeout=0.2)
        waiting = asyncio.create_task(connector.connect(metadata))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        waiting = asyncio.create_task(connector.connect(metadata))
        await asyncio.sleep(0.05)
    finally:
        os.kill(owner.process.pid, signal.SIGCONT)
    await waiting


async def test_signed_metadata_only() -> None:
    key = b"0123456789abcdef"
    async with (
        nc.Connector("owner", auth_key=key) as owner,
        nc.Connector("reader", auth_key=key) as reader,
    ):
        source = np.full(SIZE, FIRST, dtype=np.uint8)
        async with owner.create_readable(source) as offer:
            for signed in (offer.metadata(), offer.wire()):
                await reader.connect(signed)
            for unsigned in (offer.metadata().nixl_metadata, offer.connection.metadata):
                with pytest.raises(nc.RejectedMetadataError, match="not signed"):
                    await reader.connect(unsigned)


async def test_warmup_makes_the_agent(connector: nc.Connector) -> None:
    assert connector.nixl_library == ""
    await connector.initialize()
    assert connector.nixl_library == ""
    await asyncio.gather(connector.warmup(), connector.warmup())
    library = connector.nixl_library
    assert library
    await connector.warmup()
    assert connector.nixl_library == library


async def test_warmup_in_another_loop(connector: nc.Connector) -> None:
    """As Dynamo's loaders do it: in a thread of its own, with a loop of its own."""
    thread = threading.Thread(target=lambda: asyncio.run(connector.warmup()))
    thread.start()
    await asyncio.get_running_loop().run_in_executor(None, thread.join)
    assert connector.nixl_library
    async with connector.create_readable(np.full(SIZE, FIRST, np.uint8)) as offer:
        await move(connector, offer.wire())


async def test_warmup_lets_errors_out_and_may_be_tried_again() -> None:
    with nc.Connector("fails", backend="NONE") as connector:
        for _ in range(2):
            with pytest.raises(nc.BackendError, match="NONE"):
                await connector.warmup()
    closed = nc.Connector("closed")
    closed.close()
    with pytest.raises(nc.ConnectorClosedError):
        await closed.warmup()
