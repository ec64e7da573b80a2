"""What a connector's factories return: coroutines, whether the operation is made at once or not."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import sys
import weakref
from collections.abc import AsyncIterator
from typing import Any

import nixl_connect as nc
import pytest
from conftest import eventually


@pytest.fixture(params=["at once", "by the engine", "from the start"])
async def connector(request: pytest.FixtureRequest) -> AsyncIterator[nc.Connector]:
    """One that makes operations in each of the ways that there are."""
    async with nc.Connector(inline_limit=0 if request.param == "by the engine" else 64) as made:
        if request.param != "from the start":
            offer = await made.create_readable(b"abc")
            offer.cancel()
            await offer.wait_for_release()
        yield made


def holds_nothing(connector: nc.Connector) -> bool:
    stats = connector.stats()
    return (stats.waiting, stats.registered_regions) == (0, 0)


async def test_a_call_is_a_coroutine(connector: nc.Connector) -> None:
    call = connector.create_readable(nc.Descriptor(b"abc"))
    assert asyncio.iscoroutine(call)
    assert inspect.isawaitable(call)
    offer = await asyncio.create_task(call)
    assert isinstance(offer, nc.ReadableOperation)
    with pytest.raises(RuntimeError, match="already awaited"):
        await call
    call.close()
    target = bytearray(3)
    read = connector.begin_read(offer.metadata(), nc.Descriptor(target))
    assert asyncio.iscoroutine(read)
    (made,) = await asyncio.gather(read)
    await made.wait_for_completion()
    assert target == b"abc"


async def test_a_call_that_nobody_awaits_makes_nothing(connector: nc.Connector) -> None:
    with pytest.warns(RuntimeWarning, match="was never awaited"):
        connector.create_readable(nc.Descriptor(b"abc"))
    connector.create_writable(nc.Descriptor(bytearray(3))).close()
    assert holds_nothing(connector)


async def test_what_is_thrown_into_a_call_comes_out(connector: nc.Connector) -> None:
    call = connector.create_readable(nc.Descriptor(b"abc"))
    with pytest.raises(KeyError, match="x"):
        call.throw(KeyError("x"))
    with pytest.raises(RuntimeError, match="already awaited"):
        call.send(None)
    assert holds_nothing(connector)
    # While it waits, if it does.
    call = connector.create_readable(nc.Descriptor(b"abc"))
    try:
        call.send(None)
    except StopIteration as end:
        end.value.cancel()
        del end
    else:
        with pytest.raises(KeyError, match="x"):
            call.throw(KeyError, KeyError("x"))
        with pytest.raises(RuntimeError, match="already awaited"):
            call.send(None)
    gc.collect()
    assert await eventually(lambda: holds_nothing(connector))


async def test_a_call_that_is_cancelled_leaves_nothing(connector: nc.Connector) -> None:
    for _ in range(20):
        task = asyncio.create_task(make(connector))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            (await task).cancel()
        del task
    gc.collect()
    assert await eventually(lambda: holds_nothing(connector))


async def make(connector: nc.Connector) -> nc.ReadableOperation:
    return await connector.create_readable(nc.Descriptor(bytearray(100)), timeout=60)


async def test_errors_come_from_the_await_but_for_what_is_no_memory(
    connector: nc.Connector,
) -> None:
    here = nc.Descriptor(bytearray(3))
    wrong: list[tuple[type[Exception], str, Any]] = [
        (TypeError, "timeout: expected seconds", connector.create_readable(here, timeout="1")),  # type: ignore[arg-type]
        (ValueError, "timeout: expected 0", connector.create_readable(here, timeout=-1)),
        (ValueError, "readers: expected 1", connector.create_readable(here, readers=0)),
        (TypeError, "writers: expected int", connector.create_writable(here, writers=True)),
        (ValueError, "writers: expected 1", connector.create_writable(here, writers=1 << 70)),
        (ValueError, "expected writable", connector.create_writable(nc.Descriptor(b"abc"))),
        (TypeError, "expected RdmaMetadata or bytes", connector.begin_read({}, here)),  # type: ignore[arg-type]
        (nc.RejectedMetadataError, "remote_metadata", connector.begin_read(b"abc", here)),
    ]
    for error, words, call in wrong:
        with pytest.raises(error, match=words):
            await call
    with pytest.raises(TypeError, match="local_descriptors"):
        connector.create_readable(3)  # type: ignore[arg-type]
    assert await eventually(lambda: holds_nothing(connector))


async def test_numbers_of_other_kinds_are_numbers(connector: nc.Connector) -> None:
    class Index:
        def __index__(self) -> int:
            return 2

    for readers, timeout in ((Index(), 60), (2, 60.0), (None, None), (1, True and 60)):
        offer = await connector.create_readable(
            nc.Descriptor(b"abc"), readers=readers, timeout=timeout
        )
        offer.cancel()


async def test_a_call_in_a_cycle_is_collected(connector: nc.Connector) -> None:
    class Memory(bytearray):
        call: Any

    memory = Memory(3)
    memory.call = connector.create_readable(nc.Descriptor(memory))
    gone = weakref.ref(memory.call)
    del memory
    with pytest.warns(RuntimeWarning, match="was never awaited"):
        gc.collect()
    assert gone() is None


def test_a_call_says_what_it_is() -> None:
    for factory in (nc.Connector.create_readable, nc.Connector.begin_read):
        assert inspect.iscoroutinefunction(factory) or sys.version_info < (3, 12)
        assert asyncio.iscoroutinefunction(factory)
