"""Transfers between processes, on real NIXL."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from conftest import FEW, OURS, RDMA, Peer, StartPeer, not_among_few, sized

ALL_TRANSPORTS = {}
# TCP for the data too: what two hosts without RDMA would use.
TCP_ONLY = {"UCX_TLS": "tcp"}


TRANSPORTS = pytest.mark.parametrize(
    "environment",
    [ALL_TRANSPORTS] if RDMA else [ALL_TRANSPORTS, TCP_ONLY],
    ids=["rdma"] if RDMA else ["all", "tcp"],
)


async def move(owner: Peer, mover: Peer, kind: str, sizes: list[int], seed: int) -> None:
    offer = await owner.ask("offer", kind=kind, sizes=sizes, seed=seed)
    metadata = offer["metadata"]
    moved, waited = await asyncio.gather(
        mover.ask("begin", kind=kind, sizes=sizes, seed=seed, metadata=metadata),
        owner.ask("wait", key=metadata["notification_key"], seed=seed if kind == "write" else None),
    )
    assert (moved["status"], moved["right"]) == ("DONE", True), moved
    assert (waited["status"], waited["right"]) == ("DONE", True), waited


@pytest.mark.rdma
@TRANSPORTS
async def test_256_at_once(start_peer: StartPeer, environment: dict[str, str]) -> None:
    left, right = await asyncio.gather(
        start_peer(OURS, **environment), start_peer(OURS, **environment)
    )
    await asyncio.gather(
        *[
            move(*pair, kind, [1 + seed * 41, 4096], seed)
            for seed in range(64)
            for pair in ((left, right), (right, left))
            for kind in ("read", "write")
        ]
    )


@pytest.mark.rdma
@TRANSPORTS
async def test_sizes(start_peer: StartPeer, environment: dict[str, str]) -> None:
    left, right = await asyncio.gather(
        start_peer(OURS, **environment), start_peer(OURS, **environment)
    )
    for seed, sizes in enumerate(
        [[1], [4096], [sized(64 << 20)], [1, 10, 100_000], [8] * (500 if FEW else 2000)]
    ):
        for kind in ("read", "write"):
            await move(left, right, kind, sizes, seed)


@pytest.mark.rdma
@not_among_few
async def test_many_workers(start_peer: StartPeer) -> None:
    workers = await asyncio.gather(*[start_peer() for _ in range(4)])
    await asyncio.gather(
        *[
            move(owner, mover, "read", [1000], seed)
            for seed in range(8)
            for owner in workers
            for mover in workers
        ]
    )


@pytest.mark.rdma
@not_among_few
async def test_the_passive_side_learns_though_the_active_one_leaves_at_once(
    start_peer: StartPeer,
) -> None:
    owner = await start_peer()
    for seed in range(5):
        mover = await start_peer()
        offer = await owner.ask("offer", kind="read", sizes=[1 << 20], seed=seed)
        metadata = offer["metadata"]
        waiting = asyncio.create_task(owner.ask("wait", key=metadata["notification_key"]))
        moved = await mover.ask("begin", kind="read", sizes=[1 << 20], seed=seed, metadata=metadata)
        assert moved["right"], moved
        assert await mover.stop() == 0
        assert (await asyncio.wait_for(waiting, 60))["status"] == "DONE"


def nixl_versions() -> list[str]:
    """The libraries that `make test` has put beside the installed one."""
    folder = os.environ.get("NIXL_CONNECT_TEST_NIXL_DIR")
    if folder is None:
        return []
    return sorted(str(p) for p in Path(folder).glob("*/.nixl_*.mesonpy.libs/libnixl_capi.so"))


@pytest.mark.skipif(not nixl_versions(), reason="NIXL_CONNECT_TEST_NIXL_DIR names no libraries")
@pytest.mark.parametrize("library", nixl_versions(), ids=lambda path: Path(path).parts[-3])
@pytest.mark.parametrize(
    "where",
    [
        pytest.param("", id="host"),
        pytest.param("cuda:0,cpu", id="cuda", marks=pytest.mark.gpus(1)),
    ],
)
async def test_one_binary_for_other_versions_of_nixl(
    start_peer: StartPeer, library: str, where: str
) -> None:
    environment = {"NIXL_CONNECT_NIXL_LIBRARY": library}
    if where:
        # Without the runtime library of its CUDA, which need not be here.
        environment |= {"NIXL_CONNECT_TEST_WHERE": where, "UCX_MEMTYPE_CACHE": "n"}
    left, right = await asyncio.gather(
        start_peer(OURS, **environment), start_peer(OURS, **environment)
    )
    for kind in ("read", "write"):
        await move(left, right, kind, [1, 4096, 1 << 20], 7)
    await asyncio.gather(*[move(left, right, "read", [1000], seed) for seed in range(64)])
    assert await left.stop() == 0
    assert await right.stop() == 0


@pytest.mark.skipif(not nixl_versions(), reason="NIXL_CONNECT_TEST_NIXL_DIR names no libraries")
async def test_two_workers_with_different_versions_of_nixl(start_peer: StartPeer) -> None:
    """NIXL 1.4 and 1.5 understand each other; older ones have another UCX."""
    library = next(path for path in nixl_versions() if "1.4" in path)
    left, right = await asyncio.gather(
        start_peer(OURS), start_peer(OURS, NIXL_CONNECT_NIXL_LIBRARY=library)
    )
    await move(left, right, "read", [4096], 1)
    await move(right, left, "write", [4096], 2)
