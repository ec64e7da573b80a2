"""A program that uses the whole public API, as its users' type checkers see it.

`make lint` has mypy and pyright check it at their strictest; a test runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, TypeVar

import nixl_connect as nc
import nixl_connect.trio
import trio
from nixl_connect.metrics import ConnectorCollector
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel
from typing_extensions import assert_type

OperationT = TypeVar("OperationT", bound=nc.AbstractOperation)
SIZE = 4096


class Request(BaseModel):
    """Metadata as a field of a model of the user's."""

    tenant: str
    tensor: nc.RdmaMetadata
    parts: list[nc.SerializedDescriptor] = []


def options() -> nc.Connector:
    return nc.Connector(
        "all-options",
        backend="UCX",
        backend_parameters={"ucx_error_handling_mode": "peer"},
        default_timeout=None,
        linger=1,
        auth_key=b"0123456789abcdef",
        progress_thread=False,
        spin=1e-4,
        max_pause=0.01,
        engines=2,
        inline_limit=0,
        nixl_library=None,
    )


async def finished(call: nc.OperationCall[OperationT]) -> OperationT:
    """A helper over the operations of any kind."""
    operation = await call
    await operation.wait_for_completion(timeout=10)
    return operation


async def read(owner: nc.Connector, mover: nc.Connector) -> None:
    source, target = nc.Descriptor(bytearray(b"a" * SIZE)), nc.Descriptor(bytearray(SIZE))
    offer = await owner.create_readable(source, timeout=10)
    assert_type(offer, nc.ReadableOperation)
    unwanted = await owner.create_writable(target, writers=2)
    await mover.decline(unwanted.metadata(), reason="not wanted", timeout=10)
    await mover.decline(bytearray(unwanted.wire()))
    await mover.warmup()
    await mover.connect(offer.metadata(), timeout=10)
    await mover.connect(offer.metadata().nixl_metadata)
    await mover.connect((await owner.create_readable(source)).connection.metadata)
    assert_type(nc.Remote.decode_metadata(offer.metadata().nixl_metadata), bytes)
    assert_type(offer.metadata(), nc.RdmaMetadata)
    request = Request(tenant="a", tensor=offer.metadata(hex_encode=True))
    received = Request.model_validate_json(request.model_dump_json())
    transfer = await mover.begin_read(received.tensor, target, timeout=10.5)
    assert_type(transfer, nc.ReadOperation)
    await asyncio.gather(offer.wait_for_completion(), transfer.wait_for_completion())
    assert_type(transfer.results(), list[nc.Descriptor])
    assert_type(transfer.status, nc.OperationStatus)
    assert_type(transfer.remote, nc.Remote)
    await transfer.wait_for_release(timeout=10)
    assert_type(transfer.released, bool)
    assert transfer.status is nc.OperationStatus.COMPLETE
    assert transfer.operation_kind is nc.OperationKind.READ
    assert transfer.remote.name.startswith(owner.name)
    assert_type(transfer.remote.connection, nc.Connection)


async def write(owner: nc.Connector, mover: nc.Connector) -> None:
    source, target = nc.Descriptor(b"b" * SIZE), nc.Descriptor(bytearray(SIZE))
    async with owner.create_writable(target) as offer:
        assert_type(offer, nc.WritableOperation)
        async with mover.begin_write(
            source, offer.metadata(), timeout=None, stream=None
        ) as transfer:
            assert_type(transfer, nc.WriteOperation)
            await transfer.wait_for_completion()
        await offer.wait_for_completion()
        assert_type(offer.local_descriptors, list[nc.Descriptor])


async def memory(owner: nc.Connector, mover: nc.Connector) -> None:
    """Memory itself, where a descriptor is taken."""
    source, target = b"c" * SIZE, bytearray(SIZE)
    offer = await owner.create_readable([source, memoryview(source)], readers=1)
    read = await mover.begin_read(offer.metadata(), (target, bytearray(SIZE)))
    await read.wait_for_completion()
    assert_type(offer.local_descriptors, list[nc.Descriptor])
    pair = await owner.create_writable((target, "cpu"))
    mover.begin_write_blocking(source, pair.wire()).wait()


async def tasks(owner: nc.Connector, mover: nc.Connector) -> None:
    """Calls are coroutines, wherever asyncio takes one."""
    offers = await asyncio.gather(
        *[owner.create_readable(nc.Descriptor(bytes(SIZE))) for _ in range(4)]
    )
    assert_type(offers, list[nc.ReadableOperation])
    targets = [nc.Descriptor(bytearray(SIZE)) for _ in offers]
    calls = [
        mover.begin_read(offer.metadata(), target)
        for offer, target in zip(offers, targets, strict=True)
    ]
    first = asyncio.create_task(finished(calls[0]))
    assert_type(await asyncio.wait_for(first, 10), nc.ReadOperation)
    if sys.version_info >= (3, 11):
        async with asyncio.TaskGroup() as group:
            made = [group.create_task(call) for call in calls[1:]]
        assert_type(made[0].result(), nc.ReadOperation)
        operations = [task.result() for task in made]
    else:
        operations = [await call for call in calls[1:]]
    for operation in [*operations, *offers]:
        async with operation:
            await operation.wait_for_completion()


async def pieces(owner: nc.Connector, mover: nc.Connector) -> None:
    """A list of descriptors at one side, a `DescriptorList` at the other."""
    blocks = bytearray(4 * SIZE)
    whole = nc.Descriptor(blocks)
    addresses = memoryview(bytearray(32)).cast("Q")
    for i in range(4):
        addresses[i] = whole.ptr + i * SIZE
    cache = nc.DescriptorList(addresses, SIZE, device="cpu", owner=blocks)
    assert_type(len(cache), int)
    assert_type(cache[0], nc.Descriptor)
    assert_type(cache[1:], list[nc.Descriptor])
    assert_type([piece.ptr for piece in cache], list[int])
    assert_type(cache.metadata, list[nc.SerializedDescriptor])
    assert_type(cache.device, nc.Device)
    targets = [nc.Descriptor(bytearray(SIZE)) for _ in cache]
    async with owner.create_readable(cache) as offer:
        async with mover.begin_read(offer.metadata(), targets) as transfer:
            await transfer.wait_for_completion()
        await offer.wait_for_completion()


async def registered(connector: nc.Connector) -> None:
    """Descriptors, devices and what travels."""
    descriptor = nc.Descriptor(bytearray(SIZE))
    connection = nc.Connection(connector, 7)
    await connection.initialize()
    descriptor.register_with_connector(connector)
    assert_type(descriptor.is_registered, bool)
    descriptor.deregister_with_connector(connection)
    assert_type((descriptor.ptr, descriptor.size, descriptor.writable), tuple[int, int, bool])
    assert_type(descriptor.metadata, nc.SerializedDescriptor)
    again = nc.Descriptor.from_serialized(descriptor.metadata)
    assert_type(descriptor.metadata.to_descriptor(), nc.Descriptor)
    device = nc.Device((nc.DeviceKind.CUDA, 1))
    assert_type((device.kind, device.id), tuple[nc.DeviceKind, int])
    assert_type(device.kind.nixl_mem_type, str)
    assert again.device == nc.Device("cpu") == nc.Device((nc.DeviceKind.HOST, 0))
    remote = nc.Remote(connection, connection.metadata)
    assert remote.connection is connection
    assert connection.connector is connector
    assert_type(connection.name, str)
    async with connector.create_readable(descriptor) as offer:
        metadata = offer.metadata()
        assert_type(offer.wire(), bytes)
        assert_type(metadata.to_wire(), bytes)
        assert_type(nc.RdmaMetadata.from_wire(memoryview(offer.wire())), nc.RdmaMetadata)
        assert_type(metadata.to_descriptors(), nc.Descriptor | list[nc.Descriptor])
        assert_type(metadata.descriptors, list[nc.SerializedDescriptor])
        assert_type(metadata.nixl_metadata, str)
        assert_type(metadata.notification_key, str)
        assert_type(metadata.operation_kind, int)


def both_sides(operation: nc.AbstractOperation) -> str:
    """Narrowed by class."""
    if isinstance(operation, nc.PassiveOperation):
        assert_type(operation, nc.PassiveOperation)
        return operation.metadata().notification_key
    if isinstance(operation, nc.ActiveOperation):
        return operation.remote.name
    return operation.connection.name


def why(operation: Callable[[], object]) -> str:
    """Errors by type, and of the types that Python has for them."""
    try:
        operation()
    except nc.DeadlineExceededError as error:
        late: TimeoutError = error
        return f"late: {late}"
    except (nc.PeerUnreachableError, nc.PeerDisconnectedError) as error:
        gone: ConnectionError = error
        return f"gone: {gone}"
    except nc.RejectedMetadataError as error:
        rejected: ValueError = error
        return f"rejected: {rejected}"
    except nc.NixlNotFoundError as error:
        missing: ImportError = error
        return f"missing: {missing}"
    except (nc.OfferClosedError, nc.RemoteFailedError, nc.BackendError) as error:
        return f"failed: {error}"
    except (nc.OperationCancelledError, nc.OperationStateError) as error:
        return f"no result: {error}"
    except (nc.ConnectorClosedError, nc.ForkedProcessError) as error:
        return f"no connector: {error}"
    except nc.WaitTimeoutError as error:
        goes_on: TimeoutError = error
        return f"not yet: {goes_on}"
    except nc.TransferError as error:
        plain: RuntimeError = error
        return str(plain)
    return "fine"


@contextlib.asynccontextmanager
async def offered(connector: nc.Connector, data: object) -> AsyncGenerator[nc.RdmaMetadata, None]:
    """A context manager of the user's around one of ours."""
    async with connector.create_readable(nc.Descriptor(data)) as offer:
        yield offer.metadata()


def figures(connector: nc.Connector) -> dict[str, Any]:
    stats = connector.stats()
    assert_type(stats, nc.ConnectorStats)
    assert_type(stats.operations, dict[str, nc.OperationStats])
    reads = stats.operations["read"]
    assert_type((reads.complete, reads.bytes), tuple[int, int])
    assert_type((reads.total_latency, stats.engine_cpu_seconds), tuple[float, float])
    assert_type(reads.latency, tuple[int, ...])
    assert_type(stats.complete + stats.cancelled + stats.errored, int)
    registry = CollectorRegistry()
    registry.register(ConnectorCollector(connector, per_process=True))
    assert b"nixl_connect_operations" in generate_latest(registry)
    return dataclasses.asdict(stats)


def blocking() -> None:
    """Threads without an event loop."""
    source, target = nc.Descriptor(b"c" * SIZE), nc.Descriptor(bytearray(SIZE))
    with nc.Connector() as owner, nc.Connector() as mover:
        with owner.create_readable_blocking(source, timeout=10) as offer:
            assert_type(offer, nc.ReadableOperation)
            received = mover.begin_read_blocking(offer.metadata(), target, stream=None)
            assert_type(received, nc.ReadOperation)
            received.wait(timeout=10)
            offer.wait()
        with owner.create_writable_blocking(target) as space:
            assert_type(space, nc.WritableOperation)
            sent = mover.begin_write_blocking(source, space.metadata(), timeout=10)
            assert_type(sent, nc.WriteOperation)
            waiting = threading.Thread(target=space.wait, kwargs={"timeout": 10})
            waiting.start()
            sent.wait(timeout=10)
            waiting.join()
        shared = owner.create_readable_blocking(source, readers=None)
        assert_type(shared.readers_done, int)
        mover.decline_blocking(shared.metadata(), "not wanted")
        unread = owner.create_readable_blocking(source)
        assert why(unread.results).startswith("no result: ")
        unread.cancel()
        assert both_sides(sent) == str(sent.remote)
        json.dumps(figures(mover))


async def with_trio() -> None:
    """The same with trio."""
    source, target = nc.Descriptor(b"d" * SIZE), nc.Descriptor(bytearray(SIZE))
    with nc.Connector() as owner, nc.Connector() as mover:
        offer = await trio.to_thread.run_sync(owner.create_readable_blocking, source)
        assert_type(offer, nc.ReadableOperation)
        with offer, mover.begin_read_blocking(offer.metadata(), target) as transfer:
            async with trio.open_nursery() as nursery:
                each: Iterable[nc.AbstractOperation] = (offer, transfer)
                for operation in each:
                    nursery.start_soon(nixl_connect.trio.wait_for_completion, operation)


async def main() -> None:
    async with nc.Connector("owner") as owner, nc.Connector("mover") as mover:
        assert_type((owner.name, owner.hostname), tuple[str, str])
        assert_type((owner.nixl_library, owner.is_cuda_available), tuple[str, bool])
        assert owner in {owner, mover}
        await read(owner, mover)
        await write(owner, mover)
        await memory(owner, mover)
        await tasks(owner, mover)
        await pieces(owner, mover)
        await registered(owner)
        async with offered(owner, b"e") as metadata:
            assert_type(metadata, nc.RdmaMetadata)
        await mover.aclose()
    options().close()
    nc.install()
    nc.uninstall()


if __name__ == "__main__":
    asyncio.run(main())
    blocking()
    trio.run(with_trio)
    print(f"nixl_connect {nc.__version__}: every type as it says")
