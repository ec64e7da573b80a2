"""Offers for several, offers that are declined, and peers that are not what they were: addresses
that are gone, and another worker at a dead one's port."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import nixl_connect as nc
import numpy as np
import pytest
from claims_peer import LIBC, map_for_a_while
from test_claims import (
    APART,
    FIRST,
    KINDS,
    LARGE,
    LOST,
    SECOND,
    SMALL,
    WAYS,
    WAYS_OF_TCP,
    Start,
    begin,
    expect_ended,
    expect_moves,
    expect_right,
    key_of,
    offer,
    pair,
    send,
    start,
)
from test_network import IP, namespaces_can_be_made, run

SETARCH = shutil.which("setarch")

__all__ = ["start"]  # the fixture


@pytest.mark.rdma
async def test_one_of_three_is_killed(start: Start) -> None:
    size = LARGE["default"]
    owner, doomed, *others = await asyncio.gather(*[start("default", size) for _ in range(4)])
    metadata = await offer(owner, "read", size, places=3)
    moving = begin(doomed, "read", metadata, size)
    await owner.ask("progress", key=key_of(metadata))
    send(doomed, signal.SIGKILL)
    await asyncio.gather(moving, return_exceptions=True)
    for reply in await asyncio.gather(*[begin(o, "read", metadata, size) for o in others]):
        expect_right(reply)
    failed = await expect_ended(owner, metadata, "killed")
    counts = await owner.ask("readers", key=key_of(metadata))
    assert (counts["done"], counts["failed"]) == ((2, 1) if failed else (3, 0))
    late = await begin(others[0], "read", metadata, size)
    assert late.get("error") == "OfferClosedError", late


async def move(mover: nc.Connector, passive: nc.PassiveOperation, value: int) -> None:
    """Reads what is offered, or writes to it."""
    reads = isinstance(passive, nc.ReadableOperation)
    memory = np.full(SMALL, 0 if reads else value, dtype=np.uint8)
    if reads:
        active: Any = await mover.begin_read(passive.metadata(), nc.Descriptor(memory), timeout=20)
    else:
        active = await mover.begin_write(nc.Descriptor(memory), passive.metadata(), timeout=20)
    await active.wait_for_completion()
    assert (memory == value).all()


@pytest.mark.rdma
async def test_three_readers(connector: nc.Connector, other: nc.Connector) -> None:
    source = np.full(SMALL, FIRST, dtype=np.uint8)
    readable = await connector.create_readable(nc.Descriptor(source), readers=3)
    await move(other, readable, FIRST)
    await readable.wait_for_readers(1, timeout=10)
    assert (readable.status.name, readable.readers_done) == ("IN_PROGRESS", 1)
    with pytest.raises(nc.WaitTimeoutError, match="1 of 2"):
        await readable.wait_for_readers(2, timeout=0.05)
    await asyncio.gather(move(other, readable, FIRST), move(other, readable, FIRST))
    await readable.wait_for_completion(10)
    await readable.wait_for_readers(3)
    assert readable.status.name == "COMPLETE"
    assert (readable.readers_done, readable.readers_failed) == (3, 0)
    with pytest.raises(nc.OfferClosedError):
        await move(other, readable, FIRST)


async def test_any_number_of_readers(connector: nc.Connector, other: nc.Connector) -> None:
    source = np.full(SMALL, FIRST, dtype=np.uint8)
    readable = await connector.create_readable(nc.Descriptor(source), readers=None)
    await asyncio.gather(*[move(other, readable, FIRST) for _ in range(40)])
    await readable.wait_for_readers(40, timeout=10)
    assert not readable.released
    readable.cancel()
    await readable.wait_for_release(1)
    source[:] = SECOND
    assert (readable.status.name, readable.readers_done) == ("CANCELLED", 40)
    await readable.wait_for_readers(41)
    with pytest.raises(nc.OfferClosedError):
        await move(other, readable, FIRST)


@pytest.mark.rdma
async def test_two_writers(connector: nc.Connector, other: nc.Connector) -> None:
    target = np.zeros(SMALL, dtype=np.uint8)
    writable = await connector.create_writable(nc.Descriptor(target), writers=2)
    for value in (1, 2):
        await move(other, writable, value)
        await writable.wait_for_readers(value, timeout=10)
        assert (target == value).all()
    await writable.wait_for_completion(10)
    with pytest.raises(nc.OfferClosedError):
        await move(other, writable, 3)


@pytest.mark.parametrize("count", [0, -1, True, 1.5, 2**31, "1"])
async def test_wrong_numbers_of_readers(connector: nc.Connector, count: Any) -> None:
    memory = nc.Descriptor(bytearray(8))
    with pytest.raises((TypeError, ValueError), match="readers"):
        await connector.create_readable(memory, readers=count)
    with pytest.raises((TypeError, ValueError), match="writers"):
        connector.create_writable_blocking(memory, writers=count)


@pytest.mark.rdma
async def test_decline(connector: nc.Connector, other: nc.Connector) -> None:
    memory = nc.Descriptor(bytearray(SMALL))
    for reason, said in (("no room", "no room"), ("x" * 300, "x" * 127), ("a/ü\n", "a__")):
        readable = await connector.create_readable(memory)
        await other.decline(readable.metadata(), reason)
        with pytest.raises(nc.RemoteFailedError, match=said):
            await readable.wait_for_completion(5)
        await readable.wait_for_release(5)
        with pytest.raises(nc.OfferClosedError):
            other.decline_blocking(readable.metadata())
    writable = await connector.create_writable(memory, writers=2)
    other.decline_blocking(writable.metadata())
    await move(other, writable, FIRST)
    with pytest.raises(nc.RemoteFailedError, match=r"1 of 2.*declined"):
        await writable.wait_for_completion(5)
    readable = await connector.create_readable(memory)
    damaged = readable.metadata().model_copy(update={"nixl_metadata": "b64:eJwDAAAAAAE="})
    with pytest.raises(nc.RejectedMetadataError):
        await other.decline(damaged)
    await move(other, readable, FIRST)


@pytest.mark.rdma
@WAYS
async def test_one_bad_address_fails_alone(start: Start, way: str) -> None:
    """Nine reads at once, one of them of memory that is gone."""
    size = 4 << 20
    owner, mover = await pair(start, way, 9 * size)
    good = [await offer(owner, "read", size, start=i * size, timeout=20) for i in range(8)]
    bad = (await owner.ask("unmapped", size=SMALL))["metadata"]
    reads = [begin(mover, "read", m, size, start=i * size) for i, m in enumerate(good)]
    reads.insert(4, begin(mover, "read", bad, start=8 * size))
    replies = await asyncio.gather(*reads)
    refused = replies.pop(4)
    assert refused.get("error") == "BackendError", refused
    assert "address" in refused["text"], refused
    for reply, metadata in zip(replies, good, strict=True):
        expect_right(reply)
        assert (await owner.ask("wait", key=key_of(metadata))).get("status") == "COMPLETE"
    assert await expect_ended(owner, bad, "killed")


@pytest.mark.rdma
async def test_an_own_address_that_is_gone(connector: nc.Connector) -> None:
    """A connector that reads its own offers is none the worse for a bad one."""
    memory = nc.Descriptor(bytearray(b"\7" * SMALL))
    await move(connector, await connector.create_readable(memory), FIRST)
    address = map_for_a_while(SMALL)
    readable = await connector.create_readable(nc.Descriptor((address, SMALL, "cpu", None)))
    LIBC.munmap(address, SMALL)
    with pytest.raises(nc.BackendError, match="address"):
        await move(connector, readable, FIRST)
    with pytest.raises(nc.RemoteFailedError):
        await readable.wait_for_completion(10)
    for _ in range(2):
        await move(connector, await connector.create_readable(memory), FIRST)


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network in which a port is free as soon as its process has ended; its name."""
    if SETARCH is None or not namespaces_can_be_made():
        pytest.skip("needs setarch, ip (iproute2) and the right to make namespaces")
    assert IP is not None
    name = f"nixl-{os.getpid()}-stale"
    run(IP, "netns", "add", name)
    try:
        run(IP, "-n", name, "link", "set", "lo", "up")
        run(IP, "netns", "exec", name, "sysctl", "-qw", "net.ipv4.tcp_max_tw_buckets=0")
        yield name
    finally:
        run(IP, "netns", "del", name)


@WAYS_OF_TCP
async def test_metadata_of_a_dead_worker_meets_another_at_its_port(
    start: Start, way: str, namespace: str
) -> None:
    inside = (IP or "", "netns", "exec", namespace)
    # With the same addresses in each.
    place = (*inside, SETARCH or "", "-R")
    ports = {"UCX_TCP_PORT_RANGE": "47100-47100"}
    dead = await start(way, SMALL, *place, **ports)
    stale = {kind: await offer(dead, kind) for kind in KINDS}
    send(dead, signal.SIGKILL)
    await dead.process.wait()
    heir, mover = await asyncio.gather(
        start(way, SMALL, *place, **ports),
        start(way, SMALL, *inside, *(APART if way == "apart" else [])),
    )
    fresh = await offer(heir, "read")
    for kind, metadata in stale.items():
        reply = await begin(mover, kind, metadata, timeout=5)
        assert reply.get("error") in LOST, reply
    assert (await heir.ask("holds", key=key_of(fresh), value=FIRST))["right"]
    expect_right(await begin(mover, "read", fresh))
    await expect_moves(heir, mover, "write")
