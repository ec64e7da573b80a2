"""Claims, on real NIXL: from the moment that an offer's memory is released nobody touches it, and
what comes late, or too often, is refused.

In each case the owner fills its memory anew as soon as it is released; it holds that when the peer
has ended, and what the peer has read as complete is of before."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import nixl_connect as nc
import numpy as np
import pytest
from conftest import Peer

HERE = Path(__file__).parent
UNSHARE, SETARCH = shutil.which("unshare"), shutil.which("setarch")
TCP = {"UCX_TLS": "tcp"}
LOST = {"PeerDisconnectedError", "PeerUnreachableError"}
KINDS = ["read", "write"]
FIRST, SECOND = 7, 0x55
SMALL = 4096
# Long enough under way for something to happen meanwhile.
LARGE = {"default": 256 << 20, "tcp": 64 << 20, "apart": 64 << 20}
# Processes of other spaces cannot reach one another's tables: they claim by messages.
APART = [UNSHARE or "", "--pid", "--fork", "--kill-child", "--mount-proc"]
Start = Callable[..., Awaitable[Peer]]


def can_be_apart() -> bool:
    command = [*APART, "true"]
    return UNSHARE is not None and subprocess.run(command, capture_output=True).returncode == 0


WAYS = pytest.mark.parametrize(
    "way",
    [
        "default",
        "tcp",
        pytest.param(
            "apart", marks=pytest.mark.skipif(not can_be_apart(), reason="may not make namespaces")
        ),
    ],
)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts workers, as claims_peer.py is; those that nobody has killed end in order."""
    peers: list[Peer] = []

    async def start_one(way: str, size: int, *prefix: str, **environment: str) -> Peer:
        process = await asyncio.create_subprocess_exec(
            *prefix,
            *(sys.executable, str(HERE / "claims_peer.py"), f"peer{len(peers)}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=1 << 26,
            env={
                **os.environ,
                **({} if way == "default" else TCP),
                "UCX_LOG_LEVEL": "fatal",
                "NIXL_LOG_LEVEL": "FATAL",
                **environment,
            },
        )
        peer = Peer(process)
        peers.append(peer)
        await peer.ask("prepare", size=size)
        return peer

    yield start_one
    for peer in peers:
        if peer.process.returncode is None:
            send(peer, signal.SIGCONT)
            assert await within(30, peer.stop()) == 0


async def pair(start: Start, way: str, size: int) -> tuple[Peer, Peer]:
    owner, mover = await asyncio.gather(
        start(way, size), start(way, size, *(APART if way == "apart" else []))
    )
    for kind in KINDS:
        await expect_moves(owner, mover, kind)
    return owner, mover


def send(peer: Peer, number: signal.Signals) -> None:
    process = peer.process.pid
    # In a space of its own it is the child of the one that was started.
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    os.kill(int(children[0]) if children else process, number)


async def within(seconds: float, reply: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(reply, seconds)


async def offer(owner: Peer, kind: str, size: int = SMALL, **more: Any) -> dict[str, Any]:
    reply = await owner.ask("offer", kind=kind, size=size, value=FIRST, **more)
    return dict(reply["metadata"])


def begin(
    mover: Peer, kind: str, metadata: dict[str, Any], size: int = SMALL, **more: Any
) -> asyncio.Task[dict[str, Any]]:
    request = {"kind": kind, "metadata": metadata, "size": size, "value": FIRST, "timeout": 30}
    return asyncio.create_task(within(60, mover.ask("begin", **{**request, **more})))


def key_of(metadata: dict[str, Any]) -> str:
    return str(metadata["notification_key"])


def expect_right(reply: dict[str, Any], *errors: str) -> None:
    """It is complete and right, or one of these errors."""
    done = reply.get("status") == "COMPLETE" and reply["right"]
    assert done or reply.get("error") in errors, reply


async def expect_moves(owner: Peer, mover: Peer, kind: str) -> None:
    metadata = await offer(owner, kind, timeout=30)
    expect_right(await begin(mover, kind, metadata))
    waited = await within(40, owner.ask("wait", key=key_of(metadata)))
    assert waited.get("status") == "COMPLETE", waited


async def expect_ended(owner: Peer, metadata: dict[str, Any], how: str) -> bool:
    """The offer ends so, or was complete before; whether it was not."""
    reply = await within(20, owner.ask("wait", key=key_of(metadata)))
    wanted = {
        "cancel": {"status": "CANCELLED"},
        "deadline": {"error": "DeadlineExceededError"},
        "close": {"error": "ConnectorClosedError"},
        "killed": {"error": "RemoteFailedError"},
    }
    said = {name: reply[name] for name in ("status", "error") if name in reply}
    assert said in (wanted[how], {"status": "COMPLETE"}), reply
    return said == wanted[how]


async def refill(owner: Peer, metadata: dict[str, Any], most: float = 30) -> None:
    reply = await owner.ask("refill", key=key_of(metadata), value=SECOND, timeout=most)
    assert "error" not in reply, reply


async def expect_untouched(owner: Peer, metadata: dict[str, Any]) -> None:
    assert (await owner.ask("holds", key=key_of(metadata), value=SECOND))["right"]


async def end(owner: Peer, metadata: dict[str, Any], how: str) -> None:
    if how == "cancel":
        await owner.ask("cancel", key=key_of(metadata))
    elif how == "close":
        closed = await owner.ask("close")
        assert closed["seconds"] < 5, closed


@WAYS
@pytest.mark.parametrize("kind", KINDS)
async def test_the_owner_ends_its_offer(start: Start, way: str, kind: str) -> None:
    size = LARGE[way]
    owner, mover = await pair(start, way, size)

    for how in ("cancel", "deadline", "close"):  # before anybody comes
        metadata = await offer(owner, kind, timeout=0.05 if how == "deadline" else 60)
        await end(owner, metadata, how)
        assert await expect_ended(owner, metadata, how)
        # At once, not after the time for which it would linger.
        await refill(owner, metadata, 2)
        late = await begin(mover, kind, metadata, timeout=10)
        # The agent of a closed connector is gone with it.
        gone = LOST | {"DeadlineExceededError"} if (way, how) == ("apart", "close") else set()
        assert late.get("error") in {"OfferClosedError", *gone}, late
        await expect_untouched(owner, metadata)

    for how in ("cancel", "deadline", "close"):  # in the middle
        for seconds in (0.03, 0.05, 0.08, 0.13, 0.2):
            limit = seconds if how == "deadline" else 60
            metadata = await offer(owner, kind, size, timeout=limit)
            moving = begin(mover, kind, metadata, size)
            if how != "deadline":
                await owner.ask("progress", key=key_of(metadata))
            await end(owner, metadata, how)
            middle = await expect_ended(owner, metadata, how)
            await refill(owner, metadata)
            moved = await moving
            late = {"OfferClosedError"} if how == "deadline" else set()
            expect_right(moved, *late, *(LOST if how == "close" else ()))
            await expect_untouched(owner, metadata)
            if middle and "status" in moved:
                break

    for how in ("complete", "cancel", "close"):  # when it is done
        metadata = await offer(owner, kind, timeout=60)
        expect_right(await begin(mover, kind, metadata))
        assert await within(20, owner.ask("wait", key=key_of(metadata))) is not None
        await end(owner, metadata, how)
        state = await owner.ask("state", key=key_of(metadata))
        assert state["status"] == "COMPLETE", state
        await refill(owner, metadata, 2)
        if (way, how) != ("apart", "close"):
            again = await begin(mover, kind, metadata)
            assert again.get("error") == "OfferClosedError", again
        await expect_untouched(owner, metadata)
    await expect_moves(owner, mover, kind)


@WAYS
async def test_the_owner_exits(start: Start, way: str) -> None:
    """In order, but without closing its connector, in the middle of a transfer and of none."""
    size = LARGE[way]
    owners, mover = await asyncio.gather(
        asyncio.gather(*[start(way, size) for _ in KINDS]),
        start(way, size, *(APART if way == "apart" else [])),
    )
    for owner, kind in zip(owners, KINDS, strict=True):
        await expect_moves(owner, mover, kind)
        unused = await offer(owner, kind)
        metadata = await offer(owner, kind, size)
        moving = begin(mover, kind, metadata, size)
        await owner.ask("progress", key=key_of(metadata))
        await owner.ask("leave")
        assert await within(30, owner.stop()) == 0
        expect_right(await moving, *LOST)
        for late in (unused, metadata):
            reply = await begin(mover, kind, late, timeout=10)
            assert reply.get("error") in LOST | {"DeadlineExceededError"}, reply


@WAYS
@pytest.mark.parametrize("kind", KINDS)
async def test_the_peer_is_killed(start: Start, way: str, kind: str) -> None:
    size = LARGE[way]
    owner, mover = await pair(start, way, size)
    done, unused = await offer(owner, kind), await offer(owner, kind, start=2 * SMALL)
    expect_right(await begin(mover, kind, done))
    assert (await owner.ask("wait", key=key_of(done)))["status"] == "COMPLETE"
    large = size - 4 * SMALL
    metadata = await offer(owner, kind, large, start=4 * SMALL, timeout=60)
    moving = begin(mover, kind, metadata, large)
    await owner.ask("progress", key=key_of(metadata))
    send(mover, signal.SIGKILL)
    await asyncio.gather(moving, return_exceptions=True)
    loop = asyncio.get_running_loop()
    began = loop.time()
    if await expect_ended(owner, metadata, "killed"):
        # One of another space is known to be dead when it is silent.
        assert loop.time() - began < (15 if way == "apart" else 3)
    for each in (metadata, done):
        await refill(owner, each, 3)
    # Who was not at an offer takes nothing of it along.
    fresh = await start(way, SMALL, *(APART if way == "apart" else []))
    expect_right(await begin(fresh, kind, unused))
    await asyncio.sleep(0.3)
    for each in (metadata, done):
        await expect_untouched(owner, each)


@WAYS
@pytest.mark.parametrize("kind", KINDS)
async def test_the_peer_is_stopped(start: Start, way: str, kind: str) -> None:
    size = LARGE[way]
    owner, mover = await pair(start, way, size)
    for how in ("deadline", "cancel", "close"):
        metadata = await offer(owner, kind, size, timeout=0.5 if how == "deadline" else 60)
        moving = begin(mover, kind, metadata, size)
        await owner.ask("progress", key=key_of(metadata))
        send(mover, signal.SIGSTOP)
        await end(owner, metadata, how)
        if await expect_ended(owner, metadata, how):
            await asyncio.sleep(0.3)
            state = await owner.ask("state", key=key_of(metadata))
            # With the agent goes what touches memory for who has claimed by a message.
            assert state["released"] is ((way, how) == ("apart", "close")), state
        send(mover, signal.SIGCONT)
        await refill(owner, metadata)
        expect_right(await moving, *(LOST if how == "close" else ()))
        await expect_untouched(owner, metadata)
    await expect_moves(owner, mover, kind)


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
    expect_late = await begin(others[0], "read", metadata, size)
    assert expect_late.get("error") == "OfferClosedError", expect_late


async def move(mover: nc.Connector, passive: nc.PassiveOperation, value: int) -> None:
    """Reads what is offered, or writes to it."""
    reads = isinstance(passive, nc.ReadableOperation)
    memory = np.full(SMALL, 0 if reads else value, dtype=np.uint8)
    begin = mover.begin_read if reads else None
    if begin is not None:
        active: Any = await begin(passive.metadata(), nc.Descriptor(memory), timeout=20)
    else:
        active = await mover.begin_write(nc.Descriptor(memory), passive.metadata(), timeout=20)
    await active.wait_for_completion()
    assert (memory == value).all()


async def test_three_readers(connector: nc.Connector, other: nc.Connector) -> None:
    source = np.full(SMALL, FIRST, dtype=np.uint8)
    readable = await connector.create_readable(nc.Descriptor(source), readers=3)
    await move(other, readable, FIRST)
    await readable.wait_for_readers(1, timeout=10)
    assert (readable.status.name, readable.readers_done) == ("IN_PROGRESS", 1)
    with pytest.raises(TimeoutError, match="1 of 2"):
        await readable.wait_for_readers(2, timeout=0.05)
    await asyncio.gather(move(other, readable, FIRST), move(other, readable, FIRST))
    await readable.wait_for_completion(10)
    await readable.wait_for_readers(3)
    assert (readable.status.name, readable.readers_done, readable.readers_failed) == (
        "COMPLETE",
        3,
        0,
    )
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
    with pytest.raises(nc.RemoteFailedError, match="1 of 2.*declined"):
        await writable.wait_for_completion(5)
    readable = await connector.create_readable(memory)
    damaged = readable.metadata().model_copy(update={"nixl_metadata": "b64:eJwDAAAAAAE="})
    with pytest.raises(nc.RejectedMetadataError):
        await other.decline(damaged)
    await move(other, readable, FIRST)


@WAYS
async def test_one_bad_address_fails_alone(start: Start, way: str) -> None:
    """Nine reads at once, one of them of memory that is gone."""
    size = 4 << 20
    owner, mover = await pair(start, way, 8 * size)
    good = [await offer(owner, "read", size, start=i * size, timeout=20) for i in range(8)]
    bad = (await owner.ask("unmapped", size=SMALL))["metadata"]
    reads = [begin(mover, "read", m, size, start=i * size) for i, m in enumerate(good)]
    reads.insert(4, begin(mover, "read", bad))
    replies = await asyncio.gather(*reads)
    refused = replies.pop(4)
    assert refused.get("error") == "BackendError", refused
    assert "address" in refused["text"], refused
    for reply, metadata in zip(replies, good, strict=True):
        expect_right(reply)
        assert (await owner.ask("wait", key=key_of(metadata))).get("status") == "COMPLETE"
    assert await expect_ended(owner, bad, "killed")


@pytest.mark.skipif(SETARCH is None, reason="needs setarch")
@WAYS
async def test_metadata_of_a_dead_worker_meets_another_at_its_port(start: Start, way: str) -> None:
    if way == "default":
        pytest.skip("shared memory has no ports")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # With the same addresses in each.
    place = (SETARCH or "", "-R")
    ports = {"UCX_TCP_PORT_RANGE": f"{port}-{port}"}
    dead = await start(way, SMALL, *place, **ports)
    stale = {kind: await offer(dead, kind) for kind in KINDS}
    send(dead, signal.SIGKILL)
    await dead.process.wait()
    heir, mover = await asyncio.gather(
        start(way, SMALL, *place, **ports), start(way, SMALL, *(APART if way == "apart" else []))
    )
    fresh = await offer(heir, "read")
    for kind, metadata in stale.items():
        reply = await begin(mover, kind, metadata, timeout=5)
        assert reply.get("error") in LOST | {"DeadlineExceededError"}, reply
    assert (await heir.ask("holds", key=key_of(fresh), value=FIRST))["right"]
    expect_right(await begin(mover, "read", fresh))
    await expect_moves(heir, mover, "write")


def test_chaos() -> None:
    """A bounded run; chaos.py by itself takes as long as it is told to."""
    command = [sys.executable, HERE / "chaos.py", "--seconds", "5", "--seed", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
