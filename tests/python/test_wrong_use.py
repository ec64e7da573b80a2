"""Wrong use fails at the call that is wrong, says what was expected, and loses nothing."""

from __future__ import annotations

import base64
import copy
import pickle
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import nixl_connect as nc
import numpy as np
import pytest
import torch
from conftest import run_python


@pytest.fixture
async def readable(connector: nc.Connector) -> AsyncIterator[nc.ReadableOperation]:
    async with connector.create_readable(nc.Descriptor(bytearray(b"x" * 100))) as operation:
        yield operation
        # Nothing of what was refused has harmed it.
        target = bytearray(100)
        with nc.Connector("checker") as checker:
            read = await checker.begin_read(operation.metadata(), nc.Descriptor(target))
            await read.wait_for_completion(timeout=30)
        await operation.wait_for_completion(timeout=30)
        assert target == b"x" * 100


@pytest.fixture
async def writable(connector: nc.Connector) -> AsyncIterator[nc.WritableOperation]:
    async with connector.create_writable(nc.Descriptor(bytearray(100))) as operation:
        yield operation


READ_ONLY: list[Callable[[], Any]] = [
    lambda: b"x" * 100,
    lambda: torch.zeros(10, 20, dtype=torch.uint8).t()[:10, :10],
    lambda: np.frombuffer(b"x" * 100, dtype=np.uint8),
    lambda: np.zeros(200, dtype=np.uint8)[::2],
]


@pytest.mark.parametrize("make", READ_ONLY)
async def test_nothing_arrives_in_read_only_memory(
    other: nc.Connector, readable: nc.ReadableOperation, make: Callable[[], Any]
) -> None:
    target = nc.Descriptor(make())
    with pytest.raises(ValueError, match=r"local_descriptors\[0\]: expected writable"):
        await other.begin_read(readable.metadata(), target)
    with pytest.raises(ValueError, match=r"local_descriptors\[1\]: expected writable"):
        await other.create_writable([nc.Descriptor(bytearray(5)), target])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([99], r"local_descriptors\[0\]: expected the remote's size of 100 bytes, got 99"),
        ([101], "got 101"),
        ([50, 50], "expected 1 descriptors, as many as the remote's, got 2"),
    ],
)
async def test_lists_and_sizes_must_match(
    other: nc.Connector, readable: nc.ReadableOperation, sizes: list[int], message: str
) -> None:
    local = [nc.Descriptor(bytearray(size)) for size in sizes]
    with pytest.raises(ValueError, match=message):
        await other.begin_read(readable.metadata(), local)


async def test_kinds_must_match(
    other: nc.Connector, readable: nc.ReadableOperation, writable: nc.WritableOperation
) -> None:
    local = nc.Descriptor(bytearray(100))
    with pytest.raises(ValueError, match="operation_kind: expected READ, got WRITE"):
        await other.begin_read(writable.metadata(), local)
    # Dynamo raises RuntimeError; what we raise is both.
    with pytest.raises(RuntimeError, match="operation_kind: expected WRITE, got READ"):
        await other.begin_write(local, readable.metadata())


@pytest.mark.parametrize("local", [None, 1, "x", [1], [None], ("x", 1), {}])
async def test_local_descriptors_must_be_descriptors(
    other: nc.Connector, readable: nc.ReadableOperation, local: Any
) -> None:
    expected = r"local_descriptors(\[0\])?: expected a Descriptor, a torch.Tensor, .*; got "
    with pytest.raises(TypeError, match=expected):
        await other.begin_read(readable.metadata(), local)
    with pytest.raises(TypeError, match=expected):
        await other.create_readable(local)


async def test_lists_must_not_be_empty(connector: nc.Connector) -> None:
    with pytest.raises(ValueError, match="at least one"):
        await connector.create_readable([])


async def test_memory_of_a_gpu_that_is_not_there(connector: nc.Connector) -> None:
    mixed = [nc.Descriptor(bytearray(10)), nc.Descriptor((0x1000, 10, "cuda:0"))]
    with pytest.raises(nc.BackendError, match="could not be registered"):
        await connector.create_readable(mixed, stream=None)
    assert connector.stats().registered_regions == 0


@pytest.mark.parametrize("wrong", [-1, 1 << 64, True, "0", 1.5, (1,), object()])
async def test_a_stream_must_be_a_stream(connector: nc.Connector, wrong: object) -> None:
    descriptor = nc.Descriptor(bytearray(10))
    with pytest.raises(TypeError, match="stream: expected a stream of torch, CuPy, Numba"):
        await connector.create_readable(descriptor, stream=wrong)
    assert (await connector.create_readable(descriptor, stream=None)).cancel() is None


async def test_metadata_must_be_metadata(other: nc.Connector) -> None:
    for wrong in (None, {}, "b64:", [b""]):
        with pytest.raises(TypeError, match="remote_metadata: expected RdmaMetadata or bytes"):
            await other.begin_read(wrong, nc.Descriptor(bytearray(1)))  # type: ignore[arg-type]
    for text, why in (
        (b"", "no magic number at byte 0 of 0"),
        (b"{}", "JSON, which metadata_from_json takes"),
    ):
        with pytest.raises(nc.RejectedMetadataError, match=why):
            await other.begin_read(text, nc.Descriptor(bytearray(1)))


def b64(blob: bytes) -> str:
    return "b64:" + base64.b64encode(blob).decode()


def blob_of(metadata: nc.RdmaMetadata) -> bytes:
    return zlib.decompress(base64.b64decode(metadata.nixl_metadata[4:]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text, blob: "", "empty"),
        (lambda text, blob: "b64:", "truncated"),
        (lambda text, blob: text[: len(text) // 2 // 4 * 4], "truncated"),
        (lambda text, blob: text[:-5], "base64"),
        (lambda text, blob: "b64:" + "!" * 40, "not base64"),
        (lambda text, blob: "zz" * 20, "neither"),
        (lambda text, blob: "abc", "odd length"),
        (lambda text, blob: b64(b"no zlib stream"), "not a zlib stream"),
        (lambda text, blob: b64(zlib.compress(blob) + b"more"), "after the end of its zlib"),
        (lambda text, blob: b64(zlib.compress(bytes(1 << 28))), "more than"),
        (lambda text, blob: b64(zlib.compress(b"other kind")), "nixlSerDes"),
        (lambda text, blob: b64(zlib.compress(blob[:-9])), "truncated"),
        (lambda text, blob: b64(zlib.compress(blob + b"x")), "after the end"),
        (lambda text, blob: b64(zlib.compress(blob.replace(b"UCX", b"XCU"))), "backend 'UCX'"),
    ],
)
async def test_damaged_metadata_is_refused(
    other: nc.Connector,
    readable: nc.ReadableOperation,
    damage: Callable[[str, bytes], str],
    message: str,
) -> None:
    metadata = readable.metadata()
    damaged = metadata.model_copy(
        update={"nixl_metadata": damage(metadata.nixl_metadata, blob_of(metadata))}
    )
    with pytest.raises(nc.RejectedMetadataError, match=message) as caught:
        await other.begin_read(damaged, nc.Descriptor(bytearray(100)))
    assert isinstance(caught.value, nc.TransferError)
    assert isinstance(caught.value, ValueError)
    assert "nixl_metadata" in str(caught.value)


async def test_fields_that_contradict_each_other_are_refused(
    other: nc.Connector, readable: nc.ReadableOperation
) -> None:
    metadata = readable.metadata()
    region = metadata.descriptors[0]

    def changed(**update: Any) -> nc.RdmaMetadata:
        return metadata.model_copy(update=update)

    elsewhere = [region.model_copy(update={"ptr": region.ptr + 1})]
    with pytest.raises(nc.RejectedMetadataError, match="not among the regions"):
        await other.begin_read(changed(descriptors=elsewhere), nc.Descriptor(bytearray(100)))
    longer = [region.model_copy(update={"size": 101})]
    with pytest.raises(nc.RejectedMetadataError, match="not among the regions"):
        await other.begin_read(changed(descriptors=longer), nc.Descriptor(bytearray(101)))
    on_gpu = [region.model_copy(update={"device": "cuda:0"})]
    with pytest.raises(nc.RejectedMetadataError, match="not among the regions"):
        await other.begin_read(changed(descriptors=on_gpu), nc.Descriptor(bytearray(100)))
    wraps = [region.model_copy(update={"size": (1 << 64) - 1})]
    with pytest.raises((nc.RejectedMetadataError, ValueError)):
        await other.begin_read(changed(descriptors=wraps), nc.Descriptor(bytearray(100)))
    with pytest.raises(nc.RejectedMetadataError, match="notification_key: empty"):
        await other.begin_read(changed(notification_key=""), nc.Descriptor(bytearray(100)))
    with pytest.raises(ValueError, match="expected 0 descriptors"):
        await other.begin_read(changed(descriptors=[]), nc.Descriptor(bytearray(100)))


async def test_a_closed_connector_says_so(readable: nc.ReadableOperation) -> None:
    closed = nc.Connector("closed")
    connection = await closed._create_connection()
    closed.close()
    closed.close()
    local = nc.Descriptor(bytearray(100))
    with pytest.raises(nc.ConnectorClosedError, match="closed"):
        await closed.create_readable(local)
    with pytest.raises(nc.ConnectorClosedError, match="closed"):
        await closed.begin_read(readable.metadata(), local)
    with pytest.raises(nc.ConnectorClosedError, match="closed"):
        closed.create_writable_blocking(local)
    with pytest.raises(nc.ConnectorClosedError, match="closed"):
        local.register_with_connector(connection)
    assert "closed" in repr(closed)
    never_started = nc.Connector()
    never_started.close()
    with pytest.raises(nc.ConnectorClosedError, match="closed"):
        await never_started.create_readable(local)


@pytest.mark.parametrize("timeout", [-1, float("nan")])
async def test_timeouts_are_seconds(connector: nc.Connector, timeout: float) -> None:
    local = nc.Descriptor(bytearray(1))
    with pytest.raises(ValueError, match="timeout: expected 0 seconds or more"):
        await connector.create_readable(local, timeout=timeout)
    for argument in ("default_timeout", "linger", "spin", "max_pause"):
        with pytest.raises(ValueError, match=f"{argument}: expected 0 seconds or more"):
            nc.Connector(**{argument: timeout})  # type: ignore[arg-type]
    operation = await connector.create_readable(local)
    with pytest.raises(ValueError, match="timeout: expected 0 seconds or more"):
        await operation.wait_for_completion(timeout=timeout)
    with pytest.raises(TypeError, match="timeout: expected seconds or None, got str"):
        await operation.wait_for_completion(timeout="1")  # type: ignore[arg-type]


@pytest.mark.parametrize(("argument", "least"), [("engines", 1), ("inline_limit", 0)])
def test_counts_are_numbers(argument: str, least: int) -> None:
    for value in (least - 1, 1 << 50):
        with pytest.raises(ValueError, match=f"{argument}: expected {least} to .*, got {value}"):
            nc.Connector(**{argument: value})  # type: ignore[arg-type]
    for wrong in (1.5, "1", None, True):
        with pytest.raises(TypeError, match=f"{argument}: expected int"):
            nc.Connector(**{argument: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("worker_id", ["", "a\0b", 3, b"x"])
def test_worker_id_is_text(worker_id: Any) -> None:
    with pytest.raises(TypeError, match="worker_id: expected str, not empty"):
        nc.Connector(worker_id)


async def test_an_unknown_backend_is_an_error_of_use() -> None:
    with nc.Connector(backend="NOSUCH") as connector:
        with pytest.raises(nc.BackendError, match="NOSUCH"):
            await connector.create_readable(nc.Descriptor(bytearray(1)))
        with pytest.raises(nc.BackendError, match="NOSUCH"):
            connector.begin_read_blocking(
                nc.RdmaMetadata(operation_kind=1), nc.Descriptor(bytearray(1))
            )


def test_without_nixl_import_works_and_use_says_what_to_install() -> None:
    result = run_python(
        """
import asyncio, importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: (
    None if name.startswith("nixl_") and name != "nixl_connect" else find_spec(name, *rest))
import nixl_connect as nc
connector = nc.Connector()
async def use():
    try:
        await connector.create_readable(nc.Descriptor(bytearray(1)))
    except nc.NixlNotFoundError as error:
        assert isinstance(error, ImportError) and isinstance(error, nc.TransferError)
        print(error)
asyncio.run(use())
""",
        NIXL_CONNECT_NIXL_LIBRARY="",
    )
    assert result.returncode == 0, result.stderr
    assert "pip install nixl-connect[cu12]" in result.stdout
    assert "libnixl_capi.so" in result.stdout


@pytest.mark.parametrize("library", ["/nonexistent/libnixl_capi.so", "libz.so.1"])
async def test_a_wrong_library_is_named(library: str) -> None:
    with nc.Connector(nixl_library=library) as connector:
        with pytest.raises(nc.NixlNotFoundError, match=library):
            await connector.create_readable(nc.Descriptor(bytearray(1)))


def test_what_belongs_to_a_process_says_what_to_send_instead() -> None:
    with nc.Connector("here") as connector:
        with connector.create_readable_blocking(nc.Descriptor(b"abc")) as offer:
            with pytest.raises(
                TypeError, match=r"ReadableOperation\(.*send what an offer's metadata"
            ):
                pickle.dumps(offer)
            with pytest.raises(TypeError, match="make one in each process"):
                copy.copy(connector)
            assert pickle.loads(pickle.dumps(offer.metadata())) == offer.metadata()
