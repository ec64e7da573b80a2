"""Two workers on the two ends of a cable that is slow, loses packets, or is cut, by RDMA.

By TCP it is test_network.py's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from conftest import RDMA, Peer, StartPeer, not_among_few
from test_failing_peers import LOST, begun, within
from test_processes import move
from test_rdma import FAR, QUIET, SMALL, shell, works_again

pytestmark = [
    pytest.mark.rdma,
    pytest.mark.skipif(not RDMA, reason="needs RDMA devices: make test-rdma"),
]

LARGE = 1 << 18
# As on two hosts: neither sees the other's table.
END = {**QUIET, "NIXL_CONNECT_CLAIMS": "messages"}


@contextmanager
def cable(does: str) -> Iterator[None]:
    """Each end of it sends so, by Linux's `netem`."""
    each = "for end in rdma0 rdma1; do {} || {}; done"
    shell(each.format(f"tc qdisc replace dev $end root netem {does}", "exit 1"))
    try:
        yield
    finally:
        shell(each.format("tc qdisc del dev $end root", "true"))


async def pair(start_peer: StartPeer) -> tuple[Peer, Peer]:
    left, right = await asyncio.gather(start_peer(**END), start_peer(**END, **FAR))
    # By both endpoints of each side.
    for seed in range(3):
        await move(left, right, "read", [SMALL], seed)
        await move(left, right, "write", [SMALL], seed)
    return left, right


async def test_packets_are_lost(start_peer: StartPeer) -> None:
    left, right = await pair(start_peer)
    with cable("loss 1%"):
        for kind in ("read", "write"):
            await move(left, right, kind, [LARGE], 1)
            await asyncio.gather(*[move(left, right, kind, [SMALL], seed) for seed in range(8)])
        print(shell("tc -s qdisc show dev rdma0"))


@not_among_few
async def test_a_long_way(start_peer: StartPeer) -> None:
    """What an operation costs beside the time of its bytes: round trips."""
    left, right = await pair(start_peer)

    async def shortest() -> float:
        times = []
        for seed in range(9):
            began = time.monotonic()
            await move(left, right, "read", [SMALL], seed)
            times.append(time.monotonic() - began)
        return min(times)

    near = await shortest()
    with cable("delay 50ms"):
        far = await shortest()
    print(f"{near * 1000:.1f} ms; {far * 1000:.1f} ms with 100 ms more for each round trip")
    # The claim and its answer, the read, and half a round trip for the notice.
    assert near + 0.2 < far < near + 0.6


async def test_the_cable_is_cut(start_peer: StartPeer) -> None:
    """In the middle of a transfer: both end with an error, and go on when it is whole again."""
    left, right = await pair(start_peer)
    offer = (await left.ask("offer", kind="read", sizes=[LARGE], seed=2, timeout=20))["metadata"]
    # Seconds for its bytes: to cut the cable takes one by emulation.
    with cable("delay 500ms rate 500kbit"):
        request = {"kind": "read", "sizes": [LARGE], "seed": 2, "metadata": offer, "timeout": 20}
        reading = asyncio.create_task(right.ask("begin", **request))
        await begun(left, offer)
        with cable("loss 100%"):
            began = time.monotonic()
            reply = await within(60, reading)
            print(f"after {time.monotonic() - began:.1f} s: {reply}")
            assert reply.get("error") in LOST | {"DeadlineExceededError"}, reply
            waited = await within(60, left.ask("wait", key=offer["notification_key"]))
            assert waited["error"] in {"RemoteFailedError", "DeadlineExceededError"}, waited
    await within(60, works_again(left, right))
