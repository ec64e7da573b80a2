"""What only RDMA has: keys that differ, queue pairs, locked memory, devices and their addresses."""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nixl_connect as nc
import numpy as np
import pytest
from conftest import (
    DYNAMO,
    FEW,
    OURS,
    RDMA,
    Peer,
    StartPeer,
    few,
    needs_dynamo,
    not_among_few,
)
from test_claims import (
    KINDS,
    Start,
    begin,
    expect_untouched,
    key_of,
    offer,
    pair,
    refill,
    start,
)
from test_failing_peers import LOST, within
from test_processes import move

__all__ = ["start"]  # the fixture

pytestmark = [
    pytest.mark.rdma,
    pytest.mark.skipif(not RDMA, reason="needs RDMA devices: make test-rdma"),
]

SMALL = 4096
LARGE = 4 << 20
FAULTS = LOST | {"BackendError"}
QUIET = {"UCX_LOG_LEVEL": "fatal", "NIXL_LOG_LEVEL": "FATAL"}
# The other end of the cable, so that what moves goes by it.
FAR = {"UCX_NET_DEVICES": "rxe1:1"}


def shell(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


def queue_pairs(pid: int) -> int:
    lines = shell("rdma resource show qp").splitlines()
    return sum("type RC" in line and f"pid {pid} " in line for line in lines)


async def read(
    owner: nc.Connector, reader: nc.Connector, source: Any, seconds: float = 30
) -> np.ndarray[Any, Any]:
    target = np.zeros_like(source)
    async with owner.create_readable(source, timeout=seconds) as offer:
        async with reader.begin_read(offer.metadata(), target, timeout=seconds) as reading:
            await reading.wait_for_completion()
        await offer.wait_for_completion()
        await offer.wait_for_release(seconds)
    return target


async def test_the_same_memory_again_and_again(
    connector: nc.Connector, other: nc.Connector
) -> None:
    """Unmapped and mapped again, and so each time with another key; by the same queue pairs."""
    places, counts = set(), []
    for value in range(1, 21 if FEW else 41):
        with mmap.mmap(-1, LARGE) as memory:
            source = np.frombuffer(memory, dtype=np.uint8)[: SMALL * 16]
            source[:] = value
            places.add(source.ctypes.data)
            assert (await read(connector, other, source) == value).all()
            del source
        counts.append(queue_pairs(os.getpid()))
    print(len(places), counts)
    assert max(counts[10:]) == counts[9]
    assert other.stats().peers == 1


async def test_a_thousand_regions(connector: nc.Connector, other: nc.Connector) -> None:
    sources = [np.full(100 + i, i % 251, dtype=np.uint8) for i in range(1000)]
    targets = [np.zeros_like(source) for source in sources]
    async with connector.create_readable(sources) as offer:
        async with other.begin_read(offer.metadata(), targets) as reading:
            await reading.wait_for_completion(60)
        await offer.wait_for_completion(60)
    assert all(np.array_equal(*pair) for pair in zip(sources, targets, strict=True))


async def test_parts_of_a_pool(connector: nc.Connector, other: nc.Connector) -> None:
    """Registered by hand, once; 256 offers of its parts are in flight together."""
    pool = np.random.default_rng(1).integers(0, 256, (256, SMALL), dtype=np.uint8)
    whole = nc.Descriptor(pool)
    whole.register_with_connector(connector)
    parts = await asyncio.gather(*[read(connector, other, part) for part in pool])
    assert np.array_equal(np.stack(parts), pool)
    assert connector.stats().registered_regions == 1


@not_among_few
async def test_notices_need_no_endpoint_of_their_own(start_peer: StartPeer) -> None:
    left, right = await asyncio.gather(start_peer(), start_peer(**FAR))
    counts = []
    for seed in range(6):
        await move(left, right, "read", [SMALL], seed)
        await move(left, right, "write", [SMALL], seed)
        counts.append(queue_pairs(right.process.pid))
    assert counts[1:] == [counts[1]] * 5


@needs_dynamo
@not_among_few
async def test_a_dynamo_owner_deregisters_its_memory(start_peer: StartPeer) -> None:
    """While it is read, and before: the key is refused, or UCX's cache has it; nothing else fails."""
    owner, mover = await asyncio.gather(start_peer(DYNAMO, **QUIET), start_peer(OURS, **QUIET))
    await move(owner, mover, "read", [SMALL], 1)
    for when in ("while", "before"):
        offer = (await owner.ask("offer", kind="read", sizes=[LARGE], seed=2))["metadata"]
        request = {"kind": "read", "sizes": [LARGE], "seed": 2, "metadata": offer, "timeout": 20}
        if when == "before":
            await owner.ask("drop", key=offer["notification_key"])
        reading = asyncio.create_task(mover.ask("begin", **request))
        if when == "while":
            await asyncio.sleep(0.05)
            await owner.ask("drop", key=offer["notification_key"])
        reply = await within(60, reading)
        print(when, reply)
        assert reply.get("error") in FAULTS or reply.get("right"), reply
        for seed in (3, 4):
            await move(owner, mover, "read", [SMALL], seed)


@pytest.mark.parametrize("by_hand", few(False, True), ids=few("anew", "by hand"))
async def test_a_key_after_its_offer(start: Start, by_hand: bool) -> None:
    """It is good for as long as the registration, or UCX's cache of it, and nobody uses it."""
    owner, mover = await pair(start, "apart", 8 * SMALL)
    if by_hand:
        await owner.ask("register")
    for kind in KINDS:
        metadata = await offer(owner, kind)
        await owner.ask("cancel", key=key_of(metadata))
        await refill(owner, metadata, 5)
        reply = await begin(mover, kind, metadata, timeout=10)
        assert reply.get("error") == "OfferClosedError", reply
        await expect_untouched(owner, metadata)


async def noticed(start_peer: StartPeer, **environment: str) -> float:
    """Seconds until a peer that is dead is known to be, by what UCX sees alone."""
    environment = {**QUIET, **environment, "NIXL_CONNECT_CLAIMS": "messages"}
    owner, mover = await asyncio.gather(
        start_peer(OURS, **environment), start_peer(OURS, **environment)
    )
    # By endpoints that have been used: others wait until UCX_UD_TIMEOUT for their first answer.
    for _ in range(3):
        await move(owner, mover, "read", [SMALL], 1)
    offer = (await owner.ask("offer", kind="read", sizes=[SMALL], seed=1))["metadata"]
    owner.process.send_signal(signal.SIGKILL)
    await owner.process.wait()
    began = time.monotonic()
    request = {"kind": "read", "sizes": [SMALL], "seed": 1, "metadata": offer, "timeout": 60}
    reply = await within(80, mover.ask("begin", **request))
    assert reply.get("error") in LOST, reply
    return time.monotonic() - began


@not_among_few
async def test_how_soon_a_dead_peer_is_noticed(start_peer: StartPeer) -> None:
    """After as many retries as UCX lets a queue pair make, which it can be told."""
    usual, soon = await asyncio.gather(
        noticed(start_peer), noticed(start_peer, UCX_RC_TIMEOUT="50ms", UCX_RC_RETRY_COUNT="2")
    )
    print(f"after {usual:.1f} s, and {soon:.1f} s")
    assert soon < usual - 3


async def test_two_devices(start_peer: StartPeer) -> None:
    """One for each side, which are joined by a cable; and both for each."""
    for devices in few(({}, FAR), ({"UCX_NET_DEVICES": "rxe0:1,rxe1:1"},) * 2):
        left, right = await asyncio.gather(*[start_peer(**each) for each in devices])
        for kind in ("read", "write"):
            await move(left, right, kind, [SMALL, LARGE], 1)
            await move(right, left, kind, [SMALL], 2)


def gid_index(address: str, device: str = "rxe0") -> str:
    folder = Path(f"/sys/class/infiniband/{device}/ports/1/gids")
    for path in folder.iterdir():
        if path.read_text().strip().endswith(address):
            return path.name
    raise LookupError(address)


async def test_addresses_of_ipv6(start_peer: StartPeer) -> None:
    near = {"UCX_IB_GID_INDEX": gid_index("0db8:0000:0000:0000:0000:0000:0001")}
    far = {"UCX_IB_GID_INDEX": gid_index("0db8:0000:0000:0000:0000:0000:0002", "rxe1"), **FAR}
    left, right = await asyncio.gather(start_peer(**near), start_peer(**far))
    for kind in ("read", "write"):
        await move(left, right, kind, [SMALL, LARGE], 1)
        await move(right, left, kind, [SMALL], 2)


_OFFER = """
import asyncio, nixl_connect as nc
async def main():
    with nc.Connector("x") as connector:
        await connector.create_readable(bytearray(1 << 20))
try:
    asyncio.run(main())
except nc.BackendError as error:
    print(error)
"""


async def test_a_gid_index_that_is_wrong(start_peer: StartPeer) -> None:
    peer = await start_peer(UCX_IB_GID_INDEX="200", **QUIET)
    reply = await peer.ask("offer", kind="read", sizes=[SMALL], seed=1)
    print(reply)
    assert reply["error"] == "BackendError"
    assert "UCX_IB_GID_INDEX" in reply["text"]


def test_little_memory_may_be_locked() -> None:
    """The error says so; root has to give up the right to lock as much as it likes."""
    rights = "--bounding-set -ipc_lock --inh-caps -ipc_lock"
    limited = f'ulimit -l 64; exec setpriv {rights} "$@"'
    ended = subprocess.run(
        ["bash", "-c", limited, "-", sys.executable, "-c", _OFFER],
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    print(ended.stdout)
    # It would have waited without an end.
    assert "for the RDMA device 'rxe0'; UCX_TLS=^ib does without" in ended.stdout
    assert "may lock 64 KiB of memory" in ended.stdout


async def works_again(left: Peer, right: Peer) -> None:
    for seed in range(20):
        offer = await left.ask("offer", kind="read", sizes=[SMALL], seed=seed, timeout=20)
        request = {"sizes": [SMALL], "seed": seed, "metadata": offer["metadata"], "timeout": 10}
        if (reply := await right.ask("begin", kind="read", **request)).get("right"):
            return
        await asyncio.sleep(0.5)
    raise AssertionError(reply)


async def test_a_device_goes_down_and_comes_back(start_peer: StartPeer) -> None:
    left, right = await asyncio.gather(start_peer(**QUIET), start_peer(**QUIET, **FAR))
    await move(left, right, "read", [SMALL], 1)
    offer = (await left.ask("offer", kind="read", sizes=[LARGE], seed=2, timeout=20))["metadata"]
    request = {"kind": "read", "sizes": [LARGE], "seed": 2, "metadata": offer, "timeout": 20}
    reading = asyncio.create_task(right.ask("begin", **request))
    await asyncio.sleep(0.05)
    shell("ip link set rdma1 down")
    try:
        reply = await within(60, reading)
    except EOFError:
        # UCX 1.23 ends a process whose device refuses to send a datagram (`ud_verbs.c`).
        reply = None
    finally:
        shell("tools/rdma-devices join")
    if reply is None:
        right = await start_peer(**QUIET, **FAR)
    else:
        wanted = FAULTS | {"DeadlineExceededError"}
        assert reply.get("error") in wanted or reply.get("right"), reply
    await within(100, works_again(left, right))
