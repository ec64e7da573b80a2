from __future__ import annotations

import array
import asyncio
import gc
import mmap
import weakref
from collections.abc import Callable
from typing import Any

import nixl_connect as nc
import numpy as np
import pytest
import torch


class OnlyArrayInterface:
    """An object that has nothing but NumPy's interface."""

    def __init__(self, wrapped: np.ndarray[Any, Any]) -> None:
        self.wrapped = wrapped
        self.__array_interface__ = wrapped.__array_interface__


class OnlyDLPack:
    """An object that has nothing but DLPack."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.wrapped.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self.wrapped.__dlpack_device__()


class OnCuda:
    """What CuPy shows of an array, without a GPU."""

    def __init__(self, **interface: Any) -> None:
        self.__cuda_array_interface__ = {
            "shape": (4, 8),
            "typestr": "<f4",
            "data": (0x7F0000001000, False),
            "version": 3,
            **interface,
        }
        self.device = type("Device", (), {"id": 3})()


def numpy_array() -> np.ndarray[Any, Any]:
    return np.arange(32, dtype=np.float32)


@pytest.mark.parametrize(
    ("make", "size", "writable"),
    [
        (lambda: torch.arange(32, dtype=torch.float32), 128, True),
        (lambda: torch.zeros(8, dtype=torch.bfloat16), 16, True),
        (lambda: torch.ones(4, requires_grad=True), 16, True),
        (lambda: torch.arange(12).reshape(3, 4)[1:], 64, True),
        (lambda: (numpy_array(), "cpu"), 128, True),
        (lambda: (numpy_array(), nc.Device("cpu")), 128, True),
        (numpy_array, 128, True),
        (lambda: np.asfortranarray(np.ones((3, 5))), 120, False),
        (lambda: b"some bytes", 10, False),
        (lambda: bytearray(b"some bytes"), 10, True),
        (lambda: memoryview(bytearray(7)), 7, True),
        (lambda: memoryview(b"1234567"), 7, False),
        (lambda: array.array("d", [1.0, 2.0]), 16, True),
        (lambda: mmap.mmap(-1, 4096), 4096, True),
        (lambda: OnlyArrayInterface(numpy_array()), 128, True),
        (lambda: OnlyDLPack(numpy_array()), 128, True),
        (lambda: OnlyDLPack(torch.ones(3, 4)), 48, True),
        (lambda: np.float64(1.5), 8, False),
    ],
)
def test_takes_memory_from(make: Callable[[], Any], size: int, writable: bool) -> None:
    data = make()
    descriptor = nc.Descriptor(data)
    assert descriptor.size == size
    assert descriptor.ptr != 0
    assert descriptor.writable is writable
    assert descriptor.device == nc.Device("cpu")
    assert descriptor._data_ref is (data[0] if isinstance(data, tuple) else data)
    assert not descriptor.is_registered


def test_points_at_the_memory_itself() -> None:
    tensor = torch.arange(10)
    assert nc.Descriptor(tensor).ptr == tensor.data_ptr()
    assert nc.Descriptor(tensor[3:]).ptr == tensor.data_ptr() + 24
    values = numpy_array()
    for data in (values, (values, "cpu"), OnlyArrayInterface(values), OnlyDLPack(values)):
        assert nc.Descriptor(data).ptr == values.ctypes.data


def test_times() -> None:
    times = np.array(["2026-01-01", "2026-01-02"], dtype="datetime64[ns]")
    assert nc.Descriptor(times).size == 16
    assert nc.Descriptor((times, "cpu")).ptr == times.ctypes.data


def test_raw_memory() -> None:
    owner = bytearray(100)
    descriptor = nc.Descriptor((0x1000, 100, "cuda:2", owner))
    assert (descriptor.ptr, descriptor.size) == (0x1000, 100)
    assert descriptor.device == nc.Device("cuda:2")
    assert descriptor._data_ref is owner
    assert descriptor.writable
    assert nc.Descriptor((0x1000, 100)).device == nc.Device("cpu")
    assert nc.Descriptor((0x1000, 100, nc.Device("xpu:1"))).device == nc.Device("xpu:1")


def test_cuda_array_interface() -> None:
    data = OnCuda()
    descriptor = nc.Descriptor(data)
    assert (descriptor.ptr, descriptor.size) == (0x7F0000001000, 128)
    assert descriptor.device == nc.Device("cuda:3")
    assert descriptor.writable
    assert nc.Descriptor((data, "cuda:1")).device == nc.Device("cuda:1")
    assert not nc.Descriptor(OnCuda(data=(0x1000, True))).writable
    with pytest.raises(ValueError, match="contiguous"):
        nc.Descriptor(OnCuda(strides=(64, 4)))


def test_read_only_arrays_are_not_writable() -> None:
    values = numpy_array()
    values.flags.writeable = False
    for data in (values, (values, "cpu"), OnlyArrayInterface(values)):
        assert not nc.Descriptor(data).writable


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(24).reshape(4, 6).t(),
        lambda: torch.arange(24)[::2],
        lambda: np.arange(24)[::2],
    ],
)
def test_a_strided_array_is_copied_to_be_sent(make: Callable[[], Any]) -> None:
    data = make()
    descriptor = nc.Descriptor(data)
    assert not descriptor.writable
    assert descriptor._data_ref is data
    assert descriptor.size == np.asarray(data).nbytes
    assert descriptor.ptr != np.asarray(data).ctypes.data


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (None, ValueError, "got None"),
        (1, TypeError, "got int"),
        ("text", TypeError, "got str"),
        (object(), TypeError, "got object"),
        ((), TypeError, "tuple of 0"),
        ((1, 2, "cpu", None, None), TypeError, "tuple of 5"),
        ((1, 2, 3), TypeError, "expected a Device or str as the device, got int"),
        ((numpy_array(), 3), TypeError, "expected a Device or str as the device, got int"),
        ((1, 2, "floppy"), ValueError, "floppy"),
        (b"", ValueError, "0 bytes"),
        (bytearray(), ValueError, "0 bytes"),
        (np.empty(0), ValueError, "0 bytes"),
        ((0, 10), ValueError, "at 0x0"),
        ((0x1000, 0), ValueError, "0 bytes"),
        ((0x1000, -1), ValueError, "-1 bytes"),
    ],
)
def test_refuses(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        nc.Descriptor(data)


def test_refuses_an_empty_tensor() -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        nc.Descriptor(torch.empty(0))
    with pytest.raises(TypeError, match="on meta"):
        nc.Descriptor(torch.empty(4, device="meta"))


def test_travels_as_metadata() -> None:
    descriptor = nc.Descriptor((0x1000, 100, "cuda:2"))
    serialized = descriptor.metadata
    assert serialized == nc.SerializedDescriptor(device="cuda:2", ptr=0x1000, size=100)
    assert descriptor.metadata is serialized
    back = nc.Descriptor.from_serialized(serialized)
    assert (back.ptr, back.size, back.device) == (0x1000, 100, nc.Device("cuda:2"))
    with pytest.raises(TypeError, match="got dict"):
        nc.Descriptor.from_serialized({})  # type: ignore[arg-type]


def test_the_size_can_be_made_smaller() -> None:
    descriptor = nc.Descriptor(bytearray(100))
    assert descriptor.metadata.size == 100
    descriptor._data_size = 40
    assert descriptor.size == 40
    assert descriptor.metadata.size == 40
    descriptor._data_size = 100
    for size in (0, 101, 1 << 20):
        with pytest.raises(ValueError, match=f"_data_size: expected 1 to 100 bytes.*got {size}"):
            descriptor._data_size = size
    assert descriptor.size == 100


def test_a_buffer_cannot_be_resized_under_a_descriptor() -> None:
    data = bytearray(10)
    descriptor = nc.Descriptor(data)
    with pytest.raises(BufferError):
        data.extend(b"more")
    del descriptor
    gc.collect()
    data.extend(b"more")


def test_keeps_the_memory_alive_and_lets_it_go() -> None:
    values = numpy_array()
    gone = weakref.ref(values)
    descriptor = nc.Descriptor(values)
    del values
    gc.collect()
    assert gone() is not None
    del descriptor
    gc.collect()
    assert gone() is None


class Holder:
    """Memory that knows its own descriptor."""

    def __init__(self) -> None:
        self.values = np.arange(32, dtype=np.uint8)
        self.descriptor = nc.Descriptor((self.values.ctypes.data, 32, "cpu", self))


async def test_memory_that_refers_to_its_descriptor_is_collected(
    connector: nc.Connector, other: nc.Connector
) -> None:
    holder = Holder()
    gone = weakref.ref(holder)
    offer = await connector.create_readable(holder.descriptor)
    metadata = offer.metadata()
    key = holder.descriptor.ptr
    del holder
    gc.collect()
    # The operation holds it.
    assert gone() is not None
    target = bytearray(32)
    read = await other.begin_read(metadata, nc.Descriptor(target))
    await read.wait_for_completion()
    await offer.wait_for_completion()
    assert target == bytes(range(32))
    assert offer.local_descriptors[0].ptr == key
    del offer
    for _ in range(1000):
        gc.collect()
        if gone() is None:
            break
        await asyncio.sleep(0.001)
    assert gone() is None


async def test_registration_by_hand(connector: nc.Connector, other: nc.Connector) -> None:
    connection = await connector._create_connection()
    assert await connector._create_connection() is connection
    elsewhere = await other._create_connection()

    descriptor = nc.Descriptor(bytearray(4096))
    with pytest.raises(RuntimeError, match="registered with"):
        descriptor.deregister_with_connector(connection)
    descriptor.register_with_connector(connection)
    descriptor.register_with_connector(connection)
    assert descriptor.is_registered
    with pytest.raises(RuntimeError, match="registered with"):
        descriptor.deregister_with_connector(elsewhere)
    descriptor.register_with_connector(elsewhere)
    descriptor.deregister_with_connector(connection)
    assert descriptor.is_registered
    descriptor.deregister_with_connector(elsewhere)
    assert not descriptor.is_registered
    # The connector itself will do.
    descriptor.register_with_connector(connector)
    assert descriptor.is_registered
    descriptor.deregister_with_connector(connection)
    for wrong in (descriptor, None, "connection"):
        with pytest.raises(TypeError, match="expected Connection"):
            descriptor.register_with_connector(wrong)  # type: ignore[arg-type]


def registered_regions(connection: nc.Connection) -> int:
    """How many regions the agent tells of, counted in its metadata."""
    metadata = connection.metadata
    if b"nixlSDList" not in metadata:
        return 0
    at = metadata.index(b"n\x08\x00\x00\x00\x00\x00\x00\x00", metadata.index(b"nixlSDList")) + 9
    return int.from_bytes(metadata[at : at + 8], "little")


async def test_a_registered_descriptor_stays_warm(
    connector: nc.Connector, other: nc.Connector
) -> None:
    connection = await connector._create_connection()
    source = nc.Descriptor(bytearray(b"x" * 4096))
    source.register_with_connector(connection)
    assert registered_regions(connection) == 1
    for size in (4096, 1000, 1):
        source._data_size = size
        target = bytearray(size)
        with await connector.create_readable(source) as readable:
            assert registered_regions(connection) == 1
            with await other.begin_read(readable.metadata(), nc.Descriptor(target)) as read:
                await read.wait_for_completion()
            await readable.wait_for_completion()
        assert target == b"x" * size
        assert source.is_registered
    assert registered_regions(connection) == 1

    unregistered = nc.Descriptor(bytearray(4096))
    readable = await connector.create_readable(unregistered)
    assert registered_regions(connection) == 2
    readable.cancel()
    del source
    gc.collect()
    assert registered_regions(connection) == 0
