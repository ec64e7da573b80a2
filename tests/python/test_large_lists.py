"""Lists of hundreds of thousands of pieces: their metadata is small, and no event loop is held."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import nixl_connect as nc
import numpy as np
import pytest
from nixl_connect._core import MANY_DESCRIPTORS

SIZE = 64
STRIDE = 128
"""Between two pieces there is a gap, so that each is a region of its own."""
KEY = b"a secret of enough bytes"


class Pool:
    """A pool of memory, and pieces of it."""

    def __init__(self, count: int, seed: int | None = None) -> None:
        self.memory: Any = (
            np.zeros((count, STRIDE), dtype=np.uint8)
            if seed is None
            else np.random.default_rng(seed).integers(0, 256, (count, STRIDE), dtype=np.uint8)
        )
        self.addresses = self.memory.ctypes.data + np.arange(count, dtype=np.uint64) * STRIDE
        self.whole = nc.Descriptor(self.memory)

    def pieces(self) -> nc.DescriptorList:
        return nc.DescriptorList(self.addresses, SIZE, owner=self.memory)

    def descriptors(self) -> list[nc.Descriptor]:
        return [nc.Descriptor((int(a), SIZE, "cpu", self.memory)) for a in self.addresses]

    def has_the_pieces_of(self, other: Pool) -> bool:
        pieces = np.array_equal(self.memory[:, :SIZE], other.memory[:, :SIZE])
        return pieces and not self.memory[:, SIZE:].any()


class Ticks:
    """Counts how often the event loop comes around."""

    count = 0

    async def __aenter__(self) -> Ticks:
        self._task = asyncio.create_task(self._run())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0.001)


@contextmanager
def threads_of(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[set[int]]:
    """The threads that a method of connectors is called on meanwhile."""
    method: Callable[..., Any] = getattr(nc.Connector, name)
    threads = set()

    def noted(*arguments: Any) -> Any:
        threads.add(threading.get_ident())
        return method(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(nc.Connector, name, noted)
        yield threads


def serialized_descriptors() -> int:
    gc.collect()  # What other tests have left may go at any moment.
    return sum(type(each) is nc.SerializedDescriptor for each in gc.get_objects())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def holds_nothing(connector: nc.Connector) -> bool:
    stats = connector.stats()
    return not (stats.waiting or stats.in_flight or stats.registered_regions)


@pytest.mark.parametrize("by_hand", [False, True])
async def test_three_hundred_thousand_pieces(
    connector: nc.Connector, other: nc.Connector, by_hand: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 300_000
    source, target = Pool(count, seed=1), Pool(count)
    if by_hand:
        source.whole.register_with_connector(connector)
        target.whole.register_with_connector(other)
    local, remote = source.pieces(), target.pieces()
    models = serialized_descriptors()
    with threads_of(monkeypatch, "_make") as threads:
        async with Ticks() as ticks:
            offer = await connector.create_readable(local)
            after_create = ticks.count
            # Made already: the call is a look at it.
            assert offer._wire is offer.wire()
            message = offer.wire()
            read = await other.begin_read(message, remote)
            after_begin = ticks.count
            await asyncio.gather(read.wait_for_completion(), offer.wait_for_completion())
    assert target.has_the_pieces_of(source)
    # Nothing that takes long was done on this thread, which went on meanwhile.
    assert threads
    assert threading.get_ident() not in threads
    assert 2 < after_create < after_begin
    # 15 MB of JSON, in 300,000 objects on each side, say the same.
    assert len(message) < (1000 if by_hand else 1_500_000)
    assert serialized_descriptors() == models
    await read.wait_for_release()
    await offer.wait_for_release()
    if not by_hand:
        await until(lambda: holds_nothing(connector) and holds_nothing(other))


@pytest.mark.parametrize("adjacent", [False, True])
async def test_what_no_peer_would_take_is_refused_where_it_is_offered(
    connector: nc.Connector, adjacent: bool
) -> None:
    memory = np.zeros(450_000 * 2, dtype=np.uint8)
    addresses = memory.ctypes.data + np.arange(450_000, dtype=np.uint64) * (1 if adjacent else 2)
    pieces = nc.DescriptorList(addresses, 1, owner=memory)
    expected = r"local_descriptors: .* at most 16777216 bytes.* got 450000 .* register the memory"
    with pytest.raises(ValueError, match=expected):
        await connector.create_readable(pieces)
    with pytest.raises(ValueError, match=expected):
        connector.create_writable_blocking(pieces)
    await until(lambda: holds_nothing(connector))
    # As parts of one region they can be offered, and begun.
    whole = nc.Descriptor(memory)
    whole.register_with_connector(connector)
    with await connector.create_readable(pieces) as offer:
        assert len(offer.wire()) < 1000


async def test_an_operation_has_a_million_pieces_at_most(connector: nc.Connector) -> None:
    memory = np.zeros((1 << 20) + 1, dtype=np.uint8)
    addresses = memory.ctypes.data + np.arange(len(memory), dtype=np.uint64)
    with pytest.raises(ValueError, match=r"expected at most 1048576 descriptors .* got 1048577"):
        await connector.create_readable(nc.DescriptorList(addresses, 1, owner=memory))


@pytest.mark.parametrize("auth_key", [None, KEY])
@pytest.mark.parametrize("count", [3, MANY_DESCRIPTORS + 1])
async def test_bytes_and_models_say_the_same(auth_key: bytes | None, count: int) -> None:
    source = Pool(count, seed=2)
    async with (
        nc.Connector("owner", auth_key=auth_key) as owner,
        nc.Connector("mover", auth_key=auth_key) as mover,
    ):
        for local in (source.pieces(), source.descriptors()):
            offer = await owner.create_readable(local, readers=4)
            metadata, message = offer.metadata(), offer.wire()
            assert len(metadata.descriptors) == count
            assert nc.RdmaMetadata.from_wire(message) == metadata
            assert metadata.to_wire() == message
            for sent in (message, bytearray(message), memoryview(message), metadata):
                target = Pool(count)
                into = target.pieces() if sent is message else target.descriptors()
                async with mover.begin_read(sent, into) as read:
                    await read.wait_for_completion()
                assert target.has_the_pieces_of(source)
            await offer.wait_for_completion()
        back = Pool(count)
        with owner.create_writable_blocking(back.pieces()) as writable:
            mover.begin_write_blocking(source.pieces(), writable.wire()).wait()
            writable.wait()
        assert back.has_the_pieces_of(source)


async def test_altered_bytes_are_refused() -> None:
    count = MANY_DESCRIPTORS
    source, target = Pool(count, seed=3), Pool(count)
    async with nc.Connector("owner", auth_key=KEY) as owner, nc.Connector("other") as other:
        async with owner.create_readable(source.pieces()) as offer:
            message = offer.wire()
            unsigned = await other.create_readable(source.pieces())
            # The last byte is of the stride; the key's is its digit before the signature.
            altered = [message[:-1] + bytes([message[-1] ^ 1]), message.replace(b".", b"x.", 1)]
            for wrong in (unsigned.wire(), *altered[:1]):
                with pytest.raises(nc.RejectedMetadataError, match="not signed"):
                    await owner.begin_read(wrong, target.pieces())
            with pytest.raises(nc.RejectedMetadataError, match="at byte"):
                await owner.begin_read(altered[1], target.pieces())
            with pytest.raises(ValueError, match=f"expected {count} descriptors.* got 1"):
                await owner.begin_read(message, target.whole)
            with pytest.raises(nc.RejectedMetadataError, match="not signed"):
                await owner.decline(unsigned.wire())
            # Whoever knows nothing of keys can use it.
            async with other.begin_read(message, target.pieces()) as read:
                await read.wait_for_completion()
            assert target.has_the_pieces_of(source)


async def test_an_offer_is_declined_by_its_bytes(
    connector: nc.Connector, other: nc.Connector
) -> None:
    for count in (1, MANY_DESCRIPTORS):
        offer = await connector.create_readable(Pool(count).pieces(), readers=2)
        await other.decline(offer.wire(), "no room")
        other.decline_blocking(offer.wire(), "no room")
        with pytest.raises(nc.RemoteFailedError, match="no room"):
            await offer.wait_for_completion(30)


@pytest.mark.parametrize("steps", [0, 1, 5, 30])
async def test_a_factory_that_is_cancelled_leaves_nothing(
    connector: nc.Connector, other: nc.Connector, steps: int
) -> None:
    count = 50_000
    async with nc.Connector("owner") as owner:
        offer = await owner.create_readable(Pool(count, seed=4).pieces(), readers=None)
        pools = [Pool(count), Pool(count)]
        watched = [weakref.ref(pool.memory) for pool in pools]
        tasks: list[asyncio.Task[Any]] = [
            asyncio.ensure_future(connector.create_readable(pools[0].pieces())),
            asyncio.ensure_future(other.begin_read(offer.wire(), pools[1].pieces())),
        ]
        for _ in range(steps):
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with pytest.raises(asyncio.CancelledError):
                # One that had ended before holds what it has made.
                (await task).cancel()
                raise asyncio.CancelledError
        del pools, tasks, task

        def is_gone() -> bool:
            gc.collect()
            return holds_nothing(connector) and all(each() is None for each in watched)

        await until(lambda: is_gone() and other.stats().in_flight == 0)


def test_a_loop_may_close_meanwhile(connector: nc.Connector) -> None:
    pools = [Pool(50_000)]
    watched = weakref.ref(pools[0].memory)
    connector._core.start()
    connector._core.wait_started()
    loop = asyncio.new_event_loop()

    async def begin() -> asyncio.Task[Any]:
        task = asyncio.ensure_future(connector.create_readable(pools.pop().pieces()))
        await asyncio.sleep(0)
        return task

    task = loop.run_until_complete(begin())
    loop.close()
    assert not task.done()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task
    for thread in threading.enumerate():
        if thread.name == "nixl_connect-offload":
            thread.join()

    async def gone() -> None:
        def is_gone() -> bool:
            gc.collect()
            return holds_nothing(connector) and watched() is None

        await until(is_gone)

    asyncio.run(gone())


async def test_a_failure_is_raised_as_ever(connector: nc.Connector, other: nc.Connector) -> None:
    count = MANY_DESCRIPTORS
    offer = await connector.create_readable(Pool(count).pieces())
    with pytest.raises(ValueError, match=f"expected {count} descriptors"):
        await other.begin_read(offer.metadata(), Pool(count + 1).pieces())
    with pytest.raises(ValueError, match="size of 64 bytes, got 63"):
        pool = Pool(count)
        await other.begin_read(offer.wire(), nc.DescriptorList(pool.addresses, 63, owner=pool))
    with pytest.raises(nc.RejectedMetadataError, match="expected WRITE, got READ"):
        await other.begin_write(Pool(count).pieces(), offer.wire())
    with pytest.raises(nc.RejectedMetadataError, match="at byte"):
        await other.begin_read(b"text", Pool(count).pieces())
