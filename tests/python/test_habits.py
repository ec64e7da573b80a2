"""What users of asyncio, anyio and trio do around an operation."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import anyio
import nixl_connect as nc
import nixl_connect.trio
import pytest
import trio
import trio.testing
import uvloop
from conftest import run_python

needs_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio has it since 3.11")
each_loop = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])

Run = Callable[[Any], None]


@needs_3_11
@each_loop
def test_task_group(connector: nc.Connector, other: nc.Connector, run: Run) -> None:
    async def main() -> None:
        source, target = bytearray(b"x" * 1000), bytearray(1000)
        async with connector.create_readable(nc.Descriptor(source)) as offer:
            async with other.begin_read(offer.metadata(), nc.Descriptor(target)) as read:
                async with asyncio.TaskGroup() as group:
                    group.create_task(offer.wait_for_completion())
                    group.create_task(read.wait_for_completion())
        assert target == source

    run(main())


@needs_3_11
@each_loop
def test_a_failure_in_a_task_group_leaves_the_operation_as_it_is(
    connector: nc.Connector, other: nc.Connector, run: Run
) -> None:
    async def main() -> None:
        async with connector.create_readable(nc.Descriptor(bytearray(10))) as offer:
            with pytest.raises(ExceptionGroup) as raised:  # noqa: F821
                async with asyncio.TaskGroup() as group:
                    group.create_task(offer.wait_for_completion())
                    group.create_task(offer.wait_for_completion(timeout=0))
            assert [type(error) for error in raised.value.exceptions] == [nc.WaitTimeoutError]
            assert offer.status is nc.OperationStatus.INITIALIZED
            await take(other, offer)
            await offer.wait_for_completion()

    run(main())


@needs_3_11
@each_loop
def test_asyncio_timeout_leaves_the_operation_as_it_is(
    connector: nc.Connector, other: nc.Connector, run: Run
) -> None:
    async def main() -> None:
        async with connector.create_readable(nc.Descriptor(bytearray(10))) as offer:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await offer.wait_for_completion()
            assert offer.status is nc.OperationStatus.INITIALIZED
            await take(other, offer)
            await offer.wait_for_completion()

    run(main())


@pytest.mark.parametrize("use_uvloop", [False, True], ids=["asyncio", "uvloop"])
def test_anyio(connector: nc.Connector, other: nc.Connector, use_uvloop: bool) -> None:
    async def main() -> None:
        async with connector.create_readable(nc.Descriptor(bytearray(10))) as offer:
            with anyio.move_on_after(0.01) as scope:
                await offer.wait_for_completion()
            assert scope.cancelled_caught
            assert offer.status is nc.OperationStatus.INITIALIZED
            async with anyio.create_task_group() as group:
                group.start_soon(offer.wait_for_completion)
                group.start_soon(take, other, offer)
        assert offer.status is nc.OperationStatus.COMPLETE

    anyio.run(main, backend="asyncio", backend_options={"use_uvloop": use_uvloop})


async def take(connector: nc.Connector, offer: nc.ReadableOperation) -> None:
    target = nc.Descriptor(bytearray(offer.local_descriptors[0].size))
    async with connector.begin_read(offer.metadata(), target) as read:
        await read.wait_for_completion()


async def offer_in_trio(connector: nc.Connector, data: bytearray) -> nc.ReadableOperation:
    return await trio.to_thread.run_sync(connector.create_readable_blocking, nc.Descriptor(data))


async def take_in_trio(connector: nc.Connector, offer: nc.ReadableOperation) -> bytearray:
    target = bytearray(offer.local_descriptors[0].size)
    with await trio.to_thread.run_sync(
        connector.begin_read_blocking, offer.metadata(), nc.Descriptor(target)
    ) as read:
        await nixl_connect.trio.wait_for_completion(read)
    return target


def test_trio(connector: nc.Connector, other: nc.Connector) -> None:
    async def move(fill: int) -> None:
        source = bytearray([fill]) * 1000
        with await offer_in_trio(connector, source) as offer:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(nixl_connect.trio.wait_for_completion, offer)
                nursery.start_soon(nixl_connect.trio.wait_for_completion, offer)
                assert await take_in_trio(other, offer) == source
            assert offer.status is nc.OperationStatus.COMPLETE

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for fill in range(64):
                nursery.start_soon(move, fill)

    trio.run(main)
    trio.run(main)


def test_a_scope_of_trio_neither_loses_nor_cancels_the_operation(
    connector: nc.Connector, other: nc.Connector
) -> None:
    async def main() -> None:
        with await offer_in_trio(connector, bytearray(b"x" * 10)) as offer:
            with pytest.raises(trio.TooSlowError):
                with trio.fail_after(0.01):
                    await nixl_connect.trio.wait_for_completion(offer)
            with trio.CancelScope() as scope:
                scope.cancel()
                await nixl_connect.trio.wait_for_completion(offer)
            assert scope.cancelled_caught
            assert offer.status is nc.OperationStatus.INITIALIZED
            assert await take_in_trio(other, offer) == b"x" * 10
            await nixl_connect.trio.wait_for_completion(offer)
            assert offer.status is nc.OperationStatus.COMPLETE
            with trio.CancelScope() as scope:
                scope.cancel()
                await nixl_connect.trio.wait_for_completion(offer)
            assert scope.cancelled_caught, "always a checkpoint"

    trio.run(main)


def test_trio_raises_why_an_operation_failed(connector: nc.Connector) -> None:
    async def main() -> None:
        descriptor = nc.Descriptor(bytearray(10))
        late = connector.create_readable_blocking(descriptor, timeout=0.3)
        for _ in range(2):
            with pytest.raises(nc.DeadlineExceededError):
                await nixl_connect.trio.wait_for_completion(late)
        with connector.create_readable_blocking(descriptor) as withdrawn:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(nixl_connect.trio.wait_for_completion, withdrawn)
                await trio.testing.wait_all_tasks_blocked()
                withdrawn.cancel()
        assert withdrawn.status is nc.OperationStatus.CANCELLED

    trio.run(main)


def test_what_is_asyncios_says_so_under_trio(connector: nc.Connector) -> None:
    async def main() -> None:
        with await offer_in_trio(connector, bytearray(10)) as offer:
            with pytest.raises(RuntimeError, match=r"trio has nixl_connect\.trio"):
                await offer.wait_for_completion()

    trio.run(main)


def test_importing_the_package_imports_no_trio() -> None:
    run = run_python("import sys, nixl_connect; print('trio' in sys.modules)")
    assert run.stdout == "False\n", run.stderr


async def test_the_helper_for_trio_says_so_elsewhere(connector: nc.Connector) -> None:
    async with connector.create_readable(nc.Descriptor(bytearray(10))) as offer:
        with pytest.raises(RuntimeError, match="outside of a run context"):
            await nixl_connect.trio.wait_for_completion(offer)


async def test_an_offer_that_nobody_keeps_is_warned_of(
    connector: nc.Connector, other: nc.Connector, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(form: str) -> Any:
        """What a web framework's may look like."""
        offer = await connector.create_readable(nc.Descriptor(bytearray(10)))
        return offer.wire() if form == "bytes" else offer.metadata(hex_encode=form == "hex")

    for form in ("model", "hex", "bytes"):
        sent = await handler(form)
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert "keep it until it has ended" in record.message
        assert (record.connector, record.reason) == (connector.name, "withdrawn")  # type: ignore[attr-defined]
        with pytest.raises(nc.OfferClosedError, match="as one is that its owner does not hold"):
            async with other.begin_read(sent, nc.Descriptor(bytearray(10))) as read:
                await read.wait_for_completion()
        caplog.clear()


async def test_who_keeps_or_cancels_an_offer_is_not_warned(
    connector: nc.Connector, other: nc.Connector, caplog: pytest.LogCaptureFixture
) -> None:
    descriptor = nc.Descriptor(bytearray(10))
    async with connector.create_readable(descriptor) as offer:
        offer.metadata()
    offer = await connector.create_readable(descriptor)
    offer.metadata()
    offer.cancel()
    offer = await connector.create_readable(descriptor)
    await take(other, offer)
    await offer.wait_for_completion()
    # Nobody has been sent this one.
    offer = await connector.create_readable(descriptor)
    async with nc.Connector() as closed:
        kept = await closed.create_readable(descriptor)
        kept.metadata()
    del offer, kept
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
