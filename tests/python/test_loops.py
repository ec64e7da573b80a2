"""Event loops and threads: one connector, used from several, one after another and at once."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import nixl_connect as nc
import pytest
import uvloop

Run = Callable[[Coroutine[Any, Any, None]], None]


async def move(owner: nc.Connector, mover: nc.Connector, fill: int) -> None:
    source, target = bytearray([fill % 256] * 1000), bytearray(1000)
    async with owner.create_readable(nc.Descriptor(source)) as offer:
        async with mover.begin_read(offer.metadata(), nc.Descriptor(target)) as read:
            await asyncio.gather(read.wait_for_completion(), offer.wait_for_completion())
    assert source == target


def move_blocking(owner: nc.Connector, mover: nc.Connector, fill: int) -> None:
    source, target = bytearray([fill % 256] * 1000), bytearray(1000)
    with owner.create_readable_blocking(nc.Descriptor(source)) as offer:
        with mover.begin_read_blocking(offer.metadata(), nc.Descriptor(target)) as read:
            read.wait(timeout=60)
        offer.wait(timeout=60)
    assert source == target
    with owner.create_writable_blocking(nc.Descriptor(target)) as wanted:
        with mover.begin_write_blocking(nc.Descriptor(b"y" * 1000), wanted.metadata()) as write:
            write.wait(timeout=60)
        wanted.wait(timeout=60)
    assert target == b"y" * 1000


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_loops_one_after_another(connector: nc.Connector, other: nc.Connector, run: Run) -> None:
    for fill in range(5):
        run(move(connector, other, fill))
    gc.collect()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_many_at_once_in_one_loop(connector: nc.Connector, other: nc.Connector, run: Run) -> None:
    async def main() -> None:
        await asyncio.gather(*[move(connector, other, fill) for fill in range(128)])

    run(main())


def test_constructors_need_no_loop() -> None:
    connector = nc.Connector()
    descriptor = nc.Descriptor(bytearray(10))
    asyncio.run(move(connector, connector, 1))
    operation = nc.ReadableOperation(connector._shared_connection, descriptor)
    assert operation.metadata().descriptors[0].size == 10
    connector.close()


def test_threads_without_a_loop(connector: nc.Connector, other: nc.Connector) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda fill: move_blocking(connector, other, fill), range(64)))


def test_loops_and_threads_at_once(connector: nc.Connector, other: nc.Connector) -> None:
    def loop_thread(run: Run, first: int) -> None:
        async def main() -> None:
            await asyncio.gather(*[move(connector, other, first + i) for i in range(16)])

        for _ in range(3):
            run(main())

    def blocking_thread(first: int) -> None:
        for i in range(24):
            move_blocking(other, connector, first + i)

    with ThreadPoolExecutor(6) as pool:
        futures = [
            pool.submit(loop_thread, asyncio.run, 0),
            pool.submit(loop_thread, uvloop.run, 50),
        ]
        futures += [pool.submit(loop_thread, asyncio.run, 100)]
        futures += [pool.submit(blocking_thread, 10 * i) for i in range(3)]
        for future in futures:
            future.result(timeout=100)


def test_an_operation_is_awaited_in_another_loop(
    connector: nc.Connector, other: nc.Connector
) -> None:
    source, target = bytearray(b"abc"), bytearray(3)

    async def create() -> nc.ReadableOperation:
        return await connector.create_readable(nc.Descriptor(source))

    offer = asyncio.run(create())
    waiters = [
        threading.Thread(target=lambda: asyncio.run(offer.wait_for_completion(timeout=60)))
        for _ in range(3)
    ]
    blocked = threading.Thread(target=lambda: offer.wait(timeout=60))
    for thread in [*waiters, blocked]:
        thread.start()

    async def read() -> None:
        async with other.begin_read(offer.metadata(), nc.Descriptor(target)) as operation:
            await operation.wait_for_completion()

    asyncio.run(read())
    for thread in [*waiters, blocked]:
        thread.join(60)
        assert not thread.is_alive()
    assert target == b"abc"
    assert offer.status is nc.OperationStatus.COMPLETE


def test_a_loop_that_closes_first_harms_nothing(
    connector: nc.Connector, other: nc.Connector
) -> None:
    kept: list[nc.ReadableOperation] = []

    async def leave() -> None:
        offer = await connector.create_readable(nc.Descriptor(bytearray(b"abc")))
        kept.append(offer)
        task = asyncio.create_task(offer.wait_for_completion())
        await asyncio.sleep(0.01)
        assert not task.done()

    for _ in range(3):
        asyncio.run(leave())
    gc.collect()

    async def finish() -> None:
        for offer in kept:
            target = bytearray(3)
            async with other.begin_read(offer.metadata(), nc.Descriptor(target)) as read:
                await read.wait_for_completion()
            await offer.wait_for_completion(timeout=60)
            assert target == b"abc"

    asyncio.run(finish())


def test_blocking_waits_time_out(connector: nc.Connector) -> None:
    offer = connector.create_readable_blocking(nc.Descriptor(bytearray(3)))
    with pytest.raises(TimeoutError, match="it goes on"):
        offer.wait(timeout=0.02)
    assert offer.status is nc.OperationStatus.INITIALIZED
    offer.cancel()
    offer.wait()
    late = connector.create_readable_blocking(nc.Descriptor(bytearray(3)), timeout=0.3)
    with pytest.raises(nc.DeadlineExceededError):
        late.wait()


def test_the_loop_is_free_while_much_is_moved(connector: nc.Connector, other: nc.Connector) -> None:
    """The copy happens on the engine's thread: the loop turns many times during it."""

    async def main() -> int:
        size = 256 << 20
        source, target = bytearray(size), bytearray(size)
        async with connector.create_readable(nc.Descriptor(source)) as offer:
            async with other.begin_read(offer.metadata(), nc.Descriptor(target)) as read:
                turns = 0
                while read.status < nc.OperationStatus.COMPLETE:
                    await asyncio.sleep(0)
                    turns += 1
                await read.wait_for_completion()
            await offer.wait_for_completion()
        return turns

    assert asyncio.run(main()) > 100


async def test_a_wait_is_a_coroutine(connector: nc.Connector) -> None:
    offer = await connector.create_readable(b"abc")
    assert inspect.iscoroutinefunction(offer.wait_for_completion) or sys.version_info < (3, 12)
    assert asyncio.iscoroutinefunction(offer.wait_for_completion)
    wait = offer.wait_for_completion()
    assert asyncio.iscoroutine(wait)
    task = asyncio.create_task(wait)
    await asyncio.sleep(0)
    assert "Wait" in repr(task)
    offer.cancel()
    assert await task is None
    with pytest.raises(RuntimeError, match="already awaited"):
        await wait
    # What has ended is waited for in one step.
    with pytest.raises(StopIteration):
        offer.wait_for_completion().send(None)


async def test_a_wait_that_nobody_awaits_is_told_of(connector: nc.Connector) -> None:
    offer = await connector.create_readable(b"abc")
    with pytest.warns(RuntimeWarning, match="'wait_for_completion' was never awaited"):
        offer.wait_for_completion()
    offer.wait_for_completion().close()


# Python 3.12 warns of all forms but one, as our wait does by what it waits for.
@pytest.mark.filterwarnings("ignore:the .type, exc, tb. signature")
async def test_what_is_thrown_into_a_wait_comes_out(connector: nc.Connector) -> None:
    offer = await connector.create_readable(b"abc")
    for begun in (False, True):
        for thrown in ((KeyError("x"),), (KeyError, "x"), (KeyError, KeyError("x"), None)):
            wait = offer.wait_for_completion()
            if begun:
                assert asyncio.isfuture(wait.send(None))
            with pytest.raises(KeyError, match="x"):
                wait.throw(*thrown)
            with pytest.raises(RuntimeError, match="already awaited"):
                wait.send(None)
    # It has left nothing behind.
    waiting = asyncio.create_task(offer.wait_for_completion())
    await asyncio.sleep(0)
    offer.cancel()
    await asyncio.wait_for(waiting, 10)


def test_a_loop_that_is_closed_takes_its_waits_along(connector: nc.Connector) -> None:
    offer = connector.create_readable_blocking(b"abc")
    loop = asyncio.new_event_loop()
    wait = offer.wait_for_completion()
    loop.call_soon(wait.send, None)
    loop.call_soon(loop.stop)
    loop.run_forever()
    gone = weakref.ref(loop)
    loop.close()
    del loop, wait
    # The next loop drops the bridges of those that are closed.
    asyncio.run(asyncio.wait_for(_cancelled(connector), 10))
    gc.collect()
    assert gone() is None


async def _cancelled(connector: nc.Connector) -> None:
    async with connector.create_readable(b"abc") as offer:
        asyncio.get_running_loop().call_soon(offer.cancel)
        await offer.wait_for_completion()
