"""Claims, on real NIXL: from the moment that an offer's memory is released nobody touches it, and
what comes late, or too often, is refused.

In each case the owner fills its memory anew as soon as it is released; it holds that when the peer
has ended, and what the peer has read as complete is of before."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import RDMA, Peer, few, not_among_few, sized

HERE = Path(__file__).parent
UNSHARE = shutil.which("unshare")
TCP = {"UCX_TLS": "tcp"}
# Which processes of other spaces, or on other hosts, have to.
BY_MESSAGES = {"NIXL_CONNECT_CLAIMS": "messages"}
LOST = {"PeerDisconnectedError", "PeerUnreachableError"}
KINDS = ["read", "write"]
FIRST, SECOND = 7, 0x55
SMALL = 4096
# Long enough under way for something to happen meanwhile.
LARGE = {"default": sized(128 << 20), "tcp": 64 << 20, "apart": sized(64 << 20)}
# Processes of other spaces cannot reach one another's tables: they claim by messages.
APART = [] if RDMA else [UNSHARE or "", "--pid", "--fork", "--kill-child", "--mount-proc"]
Start = Callable[..., Awaitable[Peer]]


def can_be_apart() -> bool:
    command = [*APART, "true"]
    return UNSHARE is not None and subprocess.run(command, capture_output=True).returncode == 0


_APART = pytest.param(
    "apart", marks=pytest.mark.skipif(not can_be_apart(), reason="may not make namespaces")
)
WAYS = pytest.mark.parametrize(
    "way", few("apart", "default") if RDMA else ["default", "tcp", _APART]
)
WAYS_OF_TCP = pytest.mark.parametrize("way", ["tcp", _APART])


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts workers, as claims_peer.py is; those that nobody has killed end in order."""
    peers: list[Peer] = []

    async def start_one(way: str, size: int, *prefix: str, **environment: str) -> Peer:
        script, name = HERE / "claims_peer.py", f"peer{len(peers)}"
        environment = {
            **({} if way == "default" else BY_MESSAGES if RDMA else TCP),
            "UCX_LOG_LEVEL": "fatal",
            "NIXL_LOG_LEVEL": "FATAL",
            **environment,
        }
        if prefix:
            command = [*prefix, sys.executable, str(script), name]
            peer = await Peer.execute(*command, **environment)
        else:
            peer = await Peer.start(script, name, **environment)
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


def process_of(peer: Peer) -> int:
    process: int = peer.process.pid
    # In a space of its own it is the child of the one that was started.
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return int(children[0]) if children else process


def send(peer: Peer, number: signal.Signals) -> None:
    os.kill(process_of(peer), number)


def stop(peer: Peer) -> None:
    """Returns when all of its threads stand still."""
    send(peer, signal.SIGSTOP)
    threads = Path(f"/proc/{process_of(peer)}/task").glob("*/stat")
    for thread in threads:
        while thread.read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)


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


async def offer_that_ends(
    owner: Peer, kind: str, size: int, how: str, seconds: float
) -> dict[str, Any]:
    """One that ends so. Where it had ended before anybody could have it, one that takes longer."""
    while True:
        timeout = seconds if how == "deadline" else 60
        reply = await owner.ask("offer", kind=kind, size=size, value=FIRST, timeout=timeout)
        if how != "deadline" or reply.get("error") != "DeadlineExceededError":
            return dict(reply["metadata"])
        seconds *= 2


async def ends_before(owner: Peer, mover: Peer, kind: str, how: str, way: str) -> None:
    metadata = await offer_that_ends(owner, kind, SMALL, how, 0.05)
    await end(owner, metadata, how)
    assert await expect_ended(owner, metadata, how)
    # At once, not after the time for which it would linger.
    await refill(owner, metadata, 2)
    late = await begin(mover, kind, metadata, timeout=1)
    # The agent of a closed connector is gone with it.
    gone = {*LOST, "DeadlineExceededError"} if (way, how) == ("apart", "close") else set()
    assert late.get("error") in {"OfferClosedError", *gone}, late
    await expect_untouched(owner, metadata)


async def ends_during(owner: Peer, mover: Peer, kind: str, how: str, way: str) -> None:
    size = LARGE[way]
    for seconds in (0.01, 0.015, 0.02, 0.03, 0.05, 0.1):
        metadata = await offer_that_ends(owner, kind, size, how, seconds)
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
        if middle and moved.get("error") != "OfferClosedError":
            return


async def ends_after(owner: Peer, mover: Peer, kind: str, how: str, way: str) -> None:
    metadata = await offer(owner, kind, timeout=60)
    expect_right(await begin(mover, kind, metadata))
    waited = await within(20, owner.ask("wait", key=key_of(metadata)))
    assert waited.get("status") == "COMPLETE", waited
    await end(owner, metadata, how)
    state = await owner.ask("state", key=key_of(metadata))
    assert state["status"] == "COMPLETE", state
    await refill(owner, metadata, 2)
    if (way, how) != ("apart", "close"):
        again = await begin(mover, kind, metadata)
        assert again.get("error") == "OfferClosedError", again
    await expect_untouched(owner, metadata)


@pytest.mark.rdma
@WAYS
@not_among_few
async def test_the_owner_ends_its_offer(start: Start, way: str) -> None:
    owner, mover = await pair(start, way, LARGE[way])
    for kind in KINDS:
        for how in ("cancel", "deadline", "close"):
            await ends_before(owner, mover, kind, how, way)
            await ends_during(owner, mover, kind, how, way)
        for how in ("complete", "cancel", "close"):
            await ends_after(owner, mover, kind, how, way)
        await expect_moves(owner, mover, kind)


@pytest.mark.rdma
@WAYS
@not_among_few
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
        reply = await begin(mover, kind, unused, timeout=1)
        assert reply.get("error") in LOST | {"DeadlineExceededError"}, reply


@pytest.mark.rdma
@pytest.mark.parametrize("way", [_APART])
@not_among_few
async def test_the_owner_dies_before_it_answers(start: Start, way: str) -> None:
    owner, mover = await pair(start, way, 2 * SMALL)
    metadata = await offer(owner, "read")
    # Here a claim waits for its answer, for as long as the owner may be alive.
    stop(owner)
    moving = begin(mover, "read", metadata, timeout=50)
    await asyncio.sleep(2)
    assert not moving.done()
    send(owner, signal.SIGKILL)
    reply = await within(30, moving)
    assert reply.get("error") in LOST, reply


@pytest.mark.rdma
@WAYS
@pytest.mark.parametrize("kind", KINDS)
async def test_the_peer_is_killed(start: Start, way: str, kind: str) -> None:
    if (way, kind) == ("apart", "read"):
        pytest.skip("takes long, for its silence is waited for; writes do as well")
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


@pytest.mark.rdma
@WAYS
async def test_the_peer_is_stopped(start: Start, way: str) -> None:
    size = LARGE[way]
    soon = 3 if RDMA else 0.5  # Not before the mover has claimed it.
    owner, mover = await pair(start, way, size)
    for kind, how in itertools.product(KINDS, ("deadline", "close")):
        metadata = await offer(owner, kind, size, timeout=soon if how == "deadline" else 60)
        moving = begin(mover, kind, metadata, size)
        await owner.ask("progress", key=key_of(metadata))
        stop(mover)
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
    await expect_moves(owner, mover, "read")


def test_chaos() -> None:
    """A bounded run; chaos.py by itself takes as long as it is told to."""
    command = [sys.executable, str(HERE / "chaos.py"), "--seconds", "5", "--seed", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
