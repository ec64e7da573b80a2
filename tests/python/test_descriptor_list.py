"""Lists of many descriptors, made from arrays."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import nixl_connect as nc
import numpy as np
import pytest

BLOCK = 256


def blocks(count: int, every: int, seed: int = 0) -> tuple[Any, nc.DescriptorList]:
    """A pool of blocks, and one of `every` so many of them in random order."""
    pool = np.random.default_rng(seed).integers(0, 256, (count * every, BLOCK), dtype=np.uint8)
    order = np.random.default_rng(1).permutation(count) * every
    addresses = pool.ctypes.data + order.astype(np.uint64) * BLOCK
    return pool[order], nc.DescriptorList(addresses, BLOCK, owner=pool)


@pytest.mark.rdma
@pytest.mark.parametrize("engines", [1, 3])
@pytest.mark.parametrize("registered", [False, True])
async def test_gathers_ten_thousand_blocks(registered: bool, engines: int) -> None:
    count = 10_000
    expected, source = blocks(count, 3)
    out = np.zeros((count, BLOCK), dtype=np.uint8)
    target = nc.DescriptorList(
        out.ctypes.data + np.arange(count, dtype=np.int64) * BLOCK, BLOCK, owner=out
    )
    async with (
        nc.Connector("owner", engines=engines) as owner,
        nc.Connector("mover", engines=engines) as mover,
    ):
        if registered:
            whole = nc.Descriptor(out)
            whole.register_with_connector(mover._shared_connection)
        for _ in range(2):
            out[:] = 0
            with await owner.create_readable(source) as offer:
                sent = offer.metadata().model_dump_json()
                metadata = nc.RdmaMetadata.model_validate_json(sent)
                with await mover.begin_read(metadata, target) as read:
                    await read.wait_for_completion()
                await offer.wait_for_completion()
            np.testing.assert_array_equal(out, expected)


@pytest.mark.rdma
async def test_mixes_with_a_list_on_the_other_side() -> None:
    expected, source = blocks(5, 2)
    out = np.zeros((5, BLOCK), dtype=np.uint8)
    async with nc.Connector("owner") as owner, nc.Connector("mover") as mover:
        with await owner.create_readable(source) as offer:
            metadata = offer.metadata()
            assert metadata.descriptors == [d.metadata for d in source]
            with await mover.begin_read(metadata, [nc.Descriptor(row) for row in out]) as read:
                await read.wait_for_completion()
                assert [d.size for d in read.results()] == [BLOCK] * 5
            await offer.wait_for_completion()
            assert [d.ptr for d in offer.results()] == [d.ptr for d in source]
            assert "5 descriptors" in repr(offer)
    np.testing.assert_array_equal(out, expected)


def test_is_a_sequence_of_descriptors() -> None:
    _, many = blocks(4, 2)
    assert isinstance(many, Sequence)
    assert len(many) == 4
    assert [d.ptr for d in many] == [many[i].ptr for i in range(4)]
    assert many[-1].ptr == many[3].ptr
    assert [d.ptr for d in many[1:3]] == [many[1].ptr, many[2].ptr]
    assert [d.size for d in many] == [BLOCK] * 4
    assert str(many.device) == "cpu"
    assert repr(many) == "DescriptorList(4 descriptors, device=cpu)"
    for wrong in (4, -5):
        with pytest.raises(IndexError):
            many[wrong]


def test_takes_sizes_of_its_own_and_strided_arrays() -> None:
    pool = np.zeros(1000, dtype=np.uint8)
    table = np.zeros((3, 2), dtype=np.int64)
    table[:, 0] = pool.ctypes.data + np.array([0, 100, 300])
    table[:, 1] = [100, 200, 700]
    many = nc.DescriptorList(table[:, 0], table[:, 1], nc.Device("cpu"), pool)
    assert [(d.ptr, d.size) for d in many] == [tuple(row) for row in table]


def test_keeps_its_owner() -> None:
    class Pool:
        pass

    pool = Pool()
    gone = weakref.ref(pool)
    many = nc.DescriptorList(np.array([4096]), 10, owner=pool)
    first = many[0]
    del pool, many
    gc.collect()
    assert gone() is not None
    del first
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("addresses", "sizes", "device", "error", "why"),
    [
        (np.array([], dtype=np.int64), 1, "cpu", ValueError, "addresses: expected at least one"),
        (np.array([1, 0]), 1, "cpu", ValueError, r"addresses\[1\]: expected a number above 0"),
        (np.array([1, -5]), 1, "cpu", ValueError, r"addresses\[1\]: .*got -5"),
        (np.array([1, 2]), np.array([1, 0]), "cpu", ValueError, r"sizes\[1\]: expected a number"),
        (np.array([1, 2]), 0, "cpu", ValueError, r"sizes\[0\]"),
        (np.array([1, 2]), -1, "cpu", ValueError, r"sizes\[0\]: .*got -1"),
        (np.array([1, 2]), np.array([1, 2, 3]), "cpu", ValueError, "sizes: expected 2.*got 3"),
        (np.array([2]), np.array([2**64 - 1], np.uint64), "cpu", ValueError, "within memory"),
        (np.array([1.0]), 1, "cpu", TypeError, "addresses: expected an array of 64-bit"),
        (np.array([1], np.int32), 1, "cpu", TypeError, "addresses: expected an array of 64-bit"),
        (np.array([1]), np.array([1], np.int32), "cpu", TypeError, "sizes: expected an array"),
        (np.array([[1]]), 1, "cpu", TypeError, "expected arrays of 64-bit integers"),
        ([1, "2"], 1, "cpu", TypeError, r"addresses\[1\]: expected int, got str"),
        ([1], [1 << 64], "cpu", ValueError, r"sizes\[0\]: expected a number above 0"),
        (np.array([1]), 1.5, "cpu", TypeError, "expected arrays.*float"),
        (np.array([1]), 1, "tpu", ValueError, "device"),
        (np.array([1]), 1, 7, TypeError, "device"),
    ],
)
def test_wrong_arguments(
    addresses: Any, sizes: Any, device: Any, error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        nc.DescriptorList(addresses, sizes, device)
