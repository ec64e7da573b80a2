from __future__ import annotations

import asyncio
import inspect
import random
import socket
import sys
from collections.abc import Coroutine
from unittest import mock

import nixl_connect as nc
import pytest


def test_names() -> None:
    assert nc.Connector("worker").name == "worker"
    assert str(nc.Connector("worker")) == "worker"
    assert nc.Connector().name != nc.Connector().name
    assert nc.Connector().hostname == socket.gethostname()
    assert nc.Connector("worker") == nc.Connector("worker")
    assert nc.Connector("worker") != nc.Connector("another")
    assert nc.Connector("worker") != "worker"
    assert isinstance(nc.Connector().is_cuda_available, bool)


async def test_factories_are_coroutines(connector: nc.Connector) -> None:
    call = connector.create_readable(nc.Descriptor(bytearray(1)))
    assert isinstance(call, Coroutine)
    assert asyncio.iscoroutine(call)
    assert inspect.isawaitable(call)
    assert isinstance(await asyncio.create_task(call), nc.ReadableOperation)
    both = await asyncio.gather(
        connector.create_readable(nc.Descriptor(bytearray(1))),
        connector.create_writable(nc.Descriptor(bytearray(1))),
    )
    assert [type(op) for op in both] == [nc.ReadableOperation, nc.WritableOperation]
    waited = await asyncio.wait_for(connector.create_readable(nc.Descriptor(bytearray(1))), 30)
    assert isinstance(waited, nc.ReadableOperation)
    connector.create_readable(nc.Descriptor(bytearray(1))).close()


async def test_factories_can_be_mocked() -> None:
    mocked = mock.MagicMock(spec=nc.Connector)
    mocked.create_readable.return_value = "operation"
    mocked.begin_read.return_value = "operation"
    assert await mocked.create_readable(None) == "operation"
    assert await mocked.begin_read(None, None) == "operation"
    if sys.version_info < (3, 14):  # where it is deprecated
        assert asyncio.iscoroutinefunction(nc.Connector.create_writable)
        assert asyncio.iscoroutinefunction(nc.Connector.begin_write)


async def test_initialize_does_nothing(connector: nc.Connector) -> None:
    assert await connector.initialize() is None


async def test_connections(connector: nc.Connector) -> None:
    connection = await connector._create_connection()
    assert connection is await connector._create_connection()
    assert connection.connector is connector
    assert connection.name == str(connection) == "left-1"
    assert await connection.initialize() is None
    assert connection.metadata.startswith(b"nixlSerDes|")
    assert nc.Connection(connector, 7).name == "left-7"
    with pytest.raises(TypeError, match="connector: expected Connector"):
        nc.Connection("left", 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="number: expected int"):
        nc.Connection(connector, "1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="number: expected 1 to"):
        nc.Connection(connector, 0)


async def test_one_connection_for_concurrent_first_uses(connector: nc.Connector) -> None:
    made = await asyncio.gather(*[connector._create_connection() for _ in range(20)])
    assert len(set(map(id, made))) == 1


async def test_remote_checks_its_arguments(connector: nc.Connector) -> None:
    connection = await connector._create_connection()
    assert nc.Remote(connection, connection.metadata).name.startswith("left-")
    with nc.Remote(connection, connection.metadata) as remote:
        assert remote.connection is connection
    with pytest.raises(TypeError, match="connection: expected Connection"):
        nc.Remote(connector, connection.metadata)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="nixl_metadata: expected bytes or str"):
        nc.Remote(connection, 1)  # type: ignore[arg-type]
    for nothing in ("", b"", b"x"):
        with pytest.raises(nc.RejectedMetadataError):
            nc.Remote(connection, nothing)


@pytest.mark.rdma
async def test_a_restarted_worker_keeps_its_name(other: nc.Connector) -> None:
    """A worker that comes back under its old id is another agent."""
    for _ in range(3):
        with nc.Connector("phoenix") as connector:
            async with connector.create_readable(nc.Descriptor(bytearray(b"abc"))) as offer:
                target = bytearray(3)
                read = await other.begin_read(offer.metadata(), nc.Descriptor(target))
                await read.wait_for_completion(timeout=30)
                await offer.wait_for_completion(timeout=30)
                assert target == b"abc"


@pytest.mark.parametrize(
    "options",
    [
        {"progress_thread": True},
        {"spin": 0, "max_pause": 0.01},
        {"backend_parameters": {"ucx_error_handling_mode": "none"}},
        {"backend_parameters": {"num_workers": "2"}},
        {"inline_limit": 0},
        {"inline_limit": 1 << 30},
        {"engines": 2},
        {"engines": 4},
    ],
)
async def test_options(options: dict[str, object]) -> None:
    with nc.Connector("a", **options) as a, nc.Connector("b", **options) as b:  # type: ignore[arg-type]
        for data in (b"abc", random.Random(1).randbytes((5 << 20) + 3)):
            async with a.create_readable(nc.Descriptor(bytearray(data))) as offer:
                target = bytearray(len(data))
                async with b.begin_read(offer.metadata(), nc.Descriptor(target)) as read:
                    await read.wait_for_completion(timeout=30)
                await offer.wait_for_completion(timeout=30)
                assert target == data
