"""Transfers on real NIXL, within one process."""

from __future__ import annotations

import asyncio
import gc
import inspect
import math
from typing import Any

import nixl_connect as nc
import numpy as np
import pytest
from conftest import sized
from nixl_connect import _core

pytestmark = pytest.mark.rdma

KINDS = ["read", "write"]


def random_bytes(seed: int, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


async def move(
    kind: str, owner: nc.Connector, mover: nc.Connector, sizes: list[int], seed: int = 0
) -> None:
    """One whole operation, checked byte by byte."""
    full = [random_bytes(seed + i, size) for i, size in enumerate(sizes)]
    empty = [np.zeros(size, dtype=np.uint8) for size in sizes]
    full_descriptors = [nc.Descriptor(b) for b in full]
    empty_descriptors = [nc.Descriptor(b) for b in empty]
    if kind == "read":
        passive: nc.PassiveOperation = await owner.create_readable(full_descriptors)
    else:
        passive = await owner.create_writable(empty_descriptors)
    sent = nc.RdmaMetadata.model_validate_json(passive.metadata().model_dump_json())
    if kind == "read":
        active: nc.ActiveOperation = await mover.begin_read(sent, empty_descriptors)
    else:
        active = await mover.begin_write(full_descriptors, sent)
    await asyncio.gather(active.wait_for_completion(), passive.wait_for_completion())
    assert active.status is passive.status is nc.OperationStatus.COMPLETE
    for a, b in zip(full, empty, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "sizes", [[1], [4096], [1 << 20], [sized(64 << 20)], [1, 2, 3], [100] * 1000, [1 << 20, 1]]
)
async def test_moves_every_byte(
    connector: nc.Connector, other: nc.Connector, kind: str, sizes: list[int]
) -> None:
    await move(kind, connector, other, sizes)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_connector_moves_data_to_itself(connector: nc.Connector, kind: str) -> None:
    for seed in range(3):
        await move(kind, connector, connector, [4096, 10], seed)
    await asyncio.gather(*[move(kind, connector, connector, [1000], s) for s in range(64)])


@pytest.mark.parametrize("kind", KINDS)
async def test_256_at_once(connector: nc.Connector, other: nc.Connector, kind: str) -> None:
    await asyncio.gather(
        *[
            move(kind, *pair, [1 + seed * 37], seed)
            for seed in range(256)
            for pair in [(connector, other) if seed % 2 else (other, connector)]
        ]
    )


async def test_one_descriptor_in_many_operations_at_once(
    connector: nc.Connector, other: nc.Connector
) -> None:
    torch = pytest.importorskip("torch")
    source = nc.Descriptor(torch.arange(1000))
    targets = [torch.zeros(1000, dtype=torch.int64) for _ in range(64)]
    offers = await asyncio.gather(*[connector.create_readable(source) for _ in targets])
    assert len({offer.metadata().notification_key for offer in offers}) == 64
    reads = [
        await other.begin_read(offer.metadata(), nc.Descriptor(target))
        for offer, target in zip(offers, targets, strict=True)
    ]
    # Ends in an order of its own; the end of one leaves the others alone.
    await asyncio.gather(*[op.wait_for_completion() for op in [*reads, *offers]])
    for target in targets:
        assert torch.equal(target, torch.arange(1000))


async def test_parts_of_one_buffer_in_operations_at_once(
    connector: nc.Connector, other: nc.Connector
) -> None:
    source = random_bytes(1, 10_000)
    target = np.zeros(10_000, dtype=np.uint8)
    cuts = [(at, at + 1000) for at in range(0, 10_000, 500) if at + 1000 <= 10_000]

    async def part(begin: int, end: int) -> None:
        async with connector.create_readable(nc.Descriptor(source[begin:end])) as offer:
            local = nc.Descriptor(target[begin:end])
            async with other.begin_read(offer.metadata(), local) as read:
                await read.wait_for_completion()
            await offer.wait_for_completion()

    await asyncio.gather(*[part(*cut) for cut in cuts])
    assert np.array_equal(source, target)


async def test_begins_without_being_asked(connector: nc.Connector, other: nc.Connector) -> None:
    """The passive side ends though the active side never waits, nor keeps its operation."""
    source, target = bytearray(b"abc"), bytearray(3)
    offer = await connector.create_readable(nc.Descriptor(source))
    await other.begin_read(offer.metadata(), nc.Descriptor(target))
    gc.collect()
    await offer.wait_for_completion(timeout=30)
    assert offer.status is nc.OperationStatus.COMPLETE
    assert target == b"abc"


async def test_status_and_results(connector: nc.Connector, other: nc.Connector) -> None:
    source, target = nc.Descriptor(bytearray(b"abc")), nc.Descriptor(bytearray(3))
    offer = await connector.create_readable(source)
    assert offer.status is nc.OperationStatus.INITIALIZED
    assert offer.operation_kind is nc.OperationKind.READ
    with pytest.raises(nc.OperationStateError, match="not completed"):
        offer.results()
    read = await other.begin_read(offer.metadata(), target)
    assert read.operation_kind is nc.OperationKind.READ
    await read.wait_for_completion()
    await offer.wait_for_completion()
    assert read.results() == [target]
    assert read.results()[0] is target
    assert offer.results() == [source]
    assert read.status is offer.status is nc.OperationStatus.COMPLETE
    # Waiting again returns at once, and cancelling what is complete changes nothing.
    await read.wait_for_completion()
    read.cancel()
    offer.cancel()
    assert read.status is offer.status is nc.OperationStatus.COMPLETE


async def test_connections_are_one_per_operation(
    connector: nc.Connector, other: nc.Connector
) -> None:
    offers = [await connector.create_readable(nc.Descriptor(bytearray(1))) for _ in range(3)]
    names = [offer.connection.name for offer in offers]
    assert len(set(names)) == 3
    assert all(name.startswith("left-") for name in names)
    assert offers[0].connection is offers[0].connection
    assert offers[0].connection.connector is connector
    read = await other.begin_read(offers[0].metadata(), nc.Descriptor(bytearray(1)))
    assert read.remote.name.startswith("left-")
    assert read.remote.connection is read.connection
    assert str(read.remote) == read.remote.name
    again = nc.Remote(read.connection, offers[0].metadata().nixl_metadata)
    assert again.name == read.remote.name
    await read.wait_for_completion()


async def test_operations_can_be_constructed(connector: nc.Connector) -> None:
    """As Dynamo's, from a connection."""
    connection = await connector._create_connection()
    source, target = bytearray(b"abc"), bytearray(3)
    offer = nc.ReadableOperation(connection, nc.Descriptor(source))
    read = nc.ReadOperation(connection, offer.metadata(), nc.Descriptor(target))
    await asyncio.gather(read.wait_for_completion(), offer.wait_for_completion())
    assert target == b"abc"
    wanted = nc.WritableOperation(connection, nc.Descriptor(target))
    write = nc.WriteOperation(connection, nc.Descriptor(b"xyz"), wanted.metadata())
    await asyncio.gather(write.wait_for_completion(), wanted.wait_for_completion())
    assert target == b"xyz"
    for operation, abstract in [
        (offer, nc.PassiveOperation),
        (read, nc.ActiveOperation),
        (wanted, nc.PassiveOperation),
        (write, nc.ActiveOperation),
    ]:
        assert isinstance(operation, abstract)
        assert isinstance(operation, nc.AbstractOperation)


def test_bases_are_abstract() -> None:
    for base in (nc.AbstractOperation, nc.PassiveOperation, nc.ActiveOperation):
        assert inspect.isabstract(base)
        with pytest.raises(TypeError, match="abstract"):
            base()  # type: ignore[abstract,call-arg]


async def test_context_managers(connector: nc.Connector, other: nc.Connector) -> None:
    async with connector.create_readable(nc.Descriptor(bytearray(3))) as entered:
        assert isinstance(entered, nc.ReadableOperation)
        assert entered.status is nc.OperationStatus.INITIALIZED
    assert entered.status is nc.OperationStatus.CANCELLED
    with await connector.create_readable(nc.Descriptor(bytearray(3))) as awaited:
        pass
    assert awaited.status is nc.OperationStatus.CANCELLED
    awaited.__exit__(None, None, None)
    awaited.__exit__(None, None, None)
    with pytest.raises(ZeroDivisionError):
        async with connector.create_writable(nc.Descriptor(bytearray(3))) as broken:
            raise ZeroDivisionError
    assert broken.status is nc.OperationStatus.CANCELLED
    async with connector.create_readable(nc.Descriptor(bytearray(3))) as offer:
        async with other.begin_read(offer.metadata(), nc.Descriptor(bytearray(3))) as read:
            await read.wait_for_completion()
        await offer.wait_for_completion()
    assert offer.status is read.status is nc.OperationStatus.COMPLETE


async def test_cancel_ends_waiting(connector: nc.Connector) -> None:
    offer = await connector.create_readable(nc.Descriptor(bytearray(3)))
    waiting = asyncio.create_task(offer.wait_for_completion())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    offer.cancel()
    await asyncio.wait_for(waiting, 30)
    assert offer.status is nc.OperationStatus.CANCELLED
    with pytest.raises(nc.OperationCancelledError):
        offer.results()


async def test_metadata_of_what_has_ended_is_refused(connector: nc.Connector) -> None:
    offer = await connector.create_readable(nc.Descriptor(bytearray(3)))
    offer.cancel()
    with pytest.raises(nc.OperationCancelledError):
        offer.metadata()
    late = await connector.create_readable(nc.Descriptor(bytearray(3)), timeout=0.3)
    with pytest.raises(nc.DeadlineExceededError):
        await late.wait_for_completion()
    with pytest.raises(nc.DeadlineExceededError):
        late.metadata()


async def test_regions_in_regions(connector: nc.Connector, other: nc.Connector) -> None:
    """A small region hides a large one from NIXL's search; not from an operation."""
    source = random_bytes(1, 100_000)
    target = np.zeros(100_000, dtype=np.uint8)

    async def part(begin: int, end: int) -> None:
        target[begin:end] = 0
        offer = await connector.create_readable(nc.Descriptor(source[begin:end]))
        read = await other.begin_read(offer.metadata(), nc.Descriptor(target[begin:end]))
        await read.wait_for_completion()
        await offer.wait_for_completion()
        assert np.array_equal(source[begin:end], target[begin:end])

    small = await connector.create_readable(nc.Descriptor(source[1000:2000]))
    small_too = nc.Descriptor(target[1000:2000])
    small_too.register_with_connector(await other._create_connection())
    for cut in [(1000, 2000), (0, 100_000), (5000, 6000), (1500, 1600), (500, 50_000)]:
        await part(*cut)
    small.cancel()


async def test_a_withdrawn_offer_releases_its_memory(connector: nc.Connector) -> None:
    data = bytearray(4096)
    offer = await connector.create_readable(nc.Descriptor(data))
    with pytest.raises(BufferError):
        data.append(0)
    del offer
    await until_resizable(data)


async def until_resizable(data: bytearray) -> None:
    """Waits until nothing holds the buffer: the engine lets go on a thread of its own."""

    async def poll() -> None:
        while True:
            gc.collect()
            try:
                data.append(0)
            except BufferError:
                await asyncio.sleep(0.001)
            else:
                return

    await asyncio.wait_for(poll(), 30)


async def test_memory_is_released_at_the_end(connector: nc.Connector, other: nc.Connector) -> None:
    source, target = bytearray(4096), bytearray(4096)
    offer = await connector.create_readable(nc.Descriptor(source))
    read = await other.begin_read(offer.metadata(), nc.Descriptor(target))
    await asyncio.gather(read.wait_for_completion(), offer.wait_for_completion())
    del offer, read
    await until_resizable(source)
    await until_resizable(target)


async def test_deadlines(connector: nc.Connector) -> None:
    with pytest.raises(nc.DeadlineExceededError, match=r"deadline of 0\.3 s") as caught:
        async with connector.create_readable(nc.Descriptor(bytearray(3)), timeout=0.3) as offer:
            await offer.wait_for_completion()
    assert isinstance(caught.value, TimeoutError)
    assert offer.status is nc.OperationStatus.ERRORED
    with pytest.raises(nc.DeadlineExceededError):
        offer.results()
    with nc.Connector(default_timeout=0.05) as hasty:
        unhurried = await hasty.create_readable(nc.Descriptor(bytearray(3)), timeout=None)
        with pytest.raises(nc.DeadlineExceededError):
            await (await hasty.create_writable(nc.Descriptor(bytearray(3)))).wait_for_completion()
        assert unhurried.status is nc.OperationStatus.INITIALIZED


async def test_a_wait_of_its_own_can_time_out(connector: nc.Connector, other: nc.Connector) -> None:
    offer = await connector.create_readable(nc.Descriptor(bytearray(b"abc")))
    with pytest.raises(nc.WaitTimeoutError, match="it goes on"):
        await offer.wait_for_completion(timeout=0.02)
    with pytest.raises(nc.WaitTimeoutError, match="it goes on"):
        await offer.wait_for_completion(timeout=0)
    task = asyncio.create_task(offer.wait_for_completion())
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert offer.status is nc.OperationStatus.INITIALIZED
    target = bytearray(3)
    read = await other.begin_read(offer.metadata(), nc.Descriptor(target))
    await asyncio.gather(offer.wait_for_completion(), read.wait_for_completion())
    assert target == b"abc"


async def test_what_is_withdrawn_lingers_for_peers_that_claim_nothing(other: nc.Connector) -> None:
    with nc.Connector(linger=math.inf, foreign_peers=True) as connector:
        offer = await connector.create_readable(nc.Descriptor(bytearray(b"abc")))
        metadata = offer.metadata()
        offer.cancel()
        with pytest.raises(nc.WaitTimeoutError, match="not let go of its memory"):
            await offer.wait_for_release(timeout=0.3)
        assert (connector.stats().lingering, connector.stats().lingering_bytes) == (1, 3)
        # Who claims is told.
        read = await other.begin_read(metadata, nc.Descriptor(bytearray(3)))
        with pytest.raises(nc.OfferClosedError):
            await read.wait_for_completion(timeout=30)
    assert offer.released
    assert offer.status is nc.OperationStatus.CANCELLED


async def test_what_lingers_is_bounded_in_bytes() -> None:
    with nc.Connector(linger=math.inf, foreign_peers=True, max_linger_bytes=25) as connector:
        offers = [await connector.create_readable(nc.Descriptor(bytearray(10))) for _ in range(4)]
        for offer in offers:
            offer.metadata()
            offer.cancel()
        for offer in offers[:2]:
            await offer.wait_for_release(timeout=30)
        await asyncio.sleep(0.1)
        assert [offer.released for offer in offers] == [True, True, False, False]
        assert connector.stats().lingering_bytes == 20


async def test_what_is_gone_is_refused(other: nc.Connector) -> None:
    with nc.Connector() as connector:
        offer = await connector.create_readable(nc.Descriptor(bytearray(b"abc")))
        metadata = offer.metadata()
        offer.cancel()
        # At once, as nobody is at it.
        assert offer._core.wait(_core.RELEASED, 5)
        for reader in (connector, other):
            read = await reader.begin_read(metadata, nc.Descriptor(bytearray(3)))
            with pytest.raises(nc.OfferClosedError, match="the offer is closed"):
                await read.wait_for_completion(timeout=30)
        await move("read", connector, other, [10])


async def test_close_ends_what_waits(other: nc.Connector) -> None:
    connector = nc.Connector()
    offers = [await connector.create_readable(nc.Descriptor(bytearray(3))) for _ in range(10)]
    waits = [asyncio.create_task(offer.wait_for_completion()) for offer in offers]
    await asyncio.sleep(0)
    await connector.aclose()
    for wait in waits:
        with pytest.raises(nc.ConnectorClosedError, match="was closed"):
            await asyncio.wait_for(wait, 30)


async def test_async_with_connectors() -> None:
    async with nc.Connector("a") as a, nc.Connector("b") as b:
        await move("read", a, b, [100])
    with pytest.raises(nc.ConnectorClosedError):
        await a.create_readable(nc.Descriptor(bytearray(1)))


async def test_a_million_bytes_in_one_list(connector: nc.Connector, other: nc.Connector) -> None:
    await move("read", connector, other, [10] * 10_000)


async def test_memory_is_released_with_a_complete_operation(
    connector: nc.Connector, other: nc.Connector
) -> None:
    offer = await connector.create_readable(nc.Descriptor(b"abc"))
    read = await other.begin_read(offer.metadata(), nc.Descriptor(bytearray(3)))
    await asyncio.gather(offer.wait_for_release(), read.wait_for_release())
    assert offer.released
    assert read.released
    assert read.status is nc.OperationStatus.COMPLETE
    await read.wait_for_release(timeout=0)


async def test_release_is_waited_for(other: nc.Connector) -> None:
    with nc.Connector() as connector:
        offer = await connector.create_writable(nc.Descriptor(bytearray(3)))
        write = await other.begin_write(nc.Descriptor(b"abc"), offer.metadata())
        await asyncio.gather(write.wait_for_completion(), offer.wait_for_release(timeout=30))
        assert offer.released
    with pytest.raises(ValueError, match="timeout: expected 0 seconds or more"):
        await write.wait_for_release(timeout=-1)
