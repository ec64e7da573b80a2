"""The wire form is Dynamo's, in both directions: each side is ours or Dynamo's real module."""

from __future__ import annotations

import asyncio

import pytest
from conftest import (
    DYNAMO,
    FEW,
    OURS,
    RDMA,
    StartPeer,
    few,
    launcher,
    needs_dynamo,
    not_among_few,
    sized,
)

pytestmark = needs_dynamo
if RDMA:
    # To import torch, which Dynamo's module does, takes a minute by emulation: meanwhile others run.
    launcher("torch")

KiB = 1 << 10
MiB = 1 << 20

PAIRS = [(OURS, DYNAMO), (DYNAMO, OURS), (OURS, OURS)]
SIZES = [[1], [4 * KiB], [sized(64 * MiB)], [1, 4097, 100_000], [MiB] * 8]


@pytest.mark.rdma
@pytest.mark.parametrize(("passive", "active"), PAIRS[:2] if RDMA else PAIRS)
@pytest.mark.parametrize("kind", ["read", "write"])
@pytest.mark.parametrize("hex_encode", [False] if RDMA else [False, True])
@not_among_few
async def test_every_byte_arrives(
    start_peer: StartPeer, passive: str, active: str, kind: str, hex_encode: bool
) -> None:
    owner, mover = await asyncio.gather(start_peer(passive), start_peer(active))
    for seed, sizes in enumerate(SIZES):
        offer = await owner.ask("offer", kind=kind, sizes=sizes, seed=seed, hex=hex_encode)
        metadata = offer["metadata"]
        assert metadata["nixl_metadata"].startswith("b64:") != hex_encode

        waiting = asyncio.create_task(
            owner.ask(
                "wait",
                key=metadata["notification_key"],
                seed=seed if kind == "write" else None,
            )
        )
        moved = await mover.ask("begin", kind=kind, sizes=sizes, seed=seed, metadata=metadata)
        assert (moved["status"], moved["right"]) == ("DONE", True), (sizes, moved)
        waited = await waiting
        assert (waited["status"], waited["right"]) == ("DONE", True), (sizes, waited)


@pytest.mark.timeout(300)
@pytest.mark.rdma
@pytest.mark.parametrize(("passive", "active"), few(*PAIRS[:2]))
async def test_both_directions_between_one_pair(
    start_peer: StartPeer, passive: str, active: str
) -> None:
    left, right = await asyncio.gather(start_peer(passive), start_peer(active))

    async def move(owner: object, mover: object, seed: int) -> None:
        offer = await owner.ask("offer", kind="read", sizes=[4096], seed=seed)  # type: ignore[attr-defined]
        metadata = offer["metadata"]
        moved, waited = await asyncio.gather(
            mover.ask("begin", kind="read", sizes=[4096], seed=seed, metadata=metadata),  # type: ignore[attr-defined]
            owner.ask("wait", key=metadata["notification_key"]),  # type: ignore[attr-defined]
        )
        assert moved["right"], moved
        assert waited["status"] == "DONE", waited

    # Dynamo makes an agent for each operation, which takes ten seconds by emulation.
    for round_ in range(1 if FEW else 3):
        await asyncio.gather(move(left, right, 2 * round_), move(right, left, 2 * round_ + 1))
