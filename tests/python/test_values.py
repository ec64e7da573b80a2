"""What is given arrives: the values of an object, in the order of its indices, or an error that says
what to call first. One rule for torch, NumPy, buffers, array interfaces and DLPack."""

from __future__ import annotations

import ctypes
import gc
import mmap
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import nixl_connect as nc
import numpy as np
import pytest
import torch
from test_descriptor import OnlyDLPack
from torch._subclasses.fake_tensor import FakeTensorMode


class Has:
    """An object that has only these attributes."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


def only_interface(array: np.ndarray[Any, Any]) -> Any:
    return Has(__array_interface__=array.__array_interface__, keeps=array)


async def send(connector: nc.Connector, other: nc.Connector, source: Any, size: int) -> bytes:
    target = bytearray(size)
    async with connector.create_readable(source) as offer:
        metadata = nc.RdmaMetadata.model_validate_json(offer.metadata().model_dump_json())
        async with other.begin_read(metadata, target) as read:
            await read.wait_for_completion()
        await offer.wait_for_completion()
    return bytes(target)


GRID = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
COMPLEX = torch.tensor([1 + 2j, 3 + 4j])

IN_ORDER = {
    "conjugated": (lambda: COMPLEX.conj(), COMPLEX.conj().resolve_conj().numpy()),
    "negated": (lambda: torch._neg_view(torch.arange(4.0)), -np.arange(4, dtype=np.float32)),
    "imaginary part of a conjugate": (
        lambda: COMPLEX.conj().imag,
        np.array([-2, -4], dtype=np.float32),
    ),
    "Fortran order, NumPy": (lambda: np.asfortranarray(GRID), GRID),
    "Fortran order, torch": (lambda: torch.from_numpy(np.asfortranarray(GRID)), GRID),
    "Fortran order, array interface": (lambda: only_interface(np.asfortranarray(GRID)), GRID),
    "Fortran order, DLPack": (lambda: OnlyDLPack(np.asfortranarray(GRID)), GRID),
    "Fortran order, buffer": (lambda: memoryview(np.asfortranarray(GRID)), GRID),
    "channels last": (
        lambda: torch.from_numpy(GRID[None].copy()).to(memory_format=torch.channels_last),
        GRID[None],
    ),
    "a transposed view": (lambda: torch.from_numpy(GRID).transpose(0, 2), GRID.T),
    "backwards, NumPy": (lambda: GRID[::-1, :, ::-1], GRID[::-1, :, ::-1]),
    "backwards, array interface": (lambda: only_interface(GRID[::-1, ::2]), GRID[::-1, ::2]),
    "strided, DLPack": (lambda: OnlyDLPack(GRID[:, ::2, 1::2]), GRID[:, ::2, 1::2]),
    "broadcast, NumPy": (lambda: np.broadcast_to(GRID[0], (5, 3, 4)), np.stack([GRID[0]] * 5)),
    "broadcast, torch": (lambda: torch.ones(1).expand(6), np.ones(6, dtype=np.float32)),
    "broadcast, DLPack": (
        lambda: OnlyDLPack(torch.arange(3.0).expand(2, 3)),
        np.stack([np.arange(3, dtype=np.float32)] * 2),
    ),
    "windows that overlap": (
        lambda: np.lib.stride_tricks.sliding_window_view(np.arange(6), 3),
        np.lib.stride_tricks.sliding_window_view(np.arange(6), 3),
    ),
    "times, strided": (
        lambda: np.arange("2026-01", "2026-07", dtype="datetime64[M]")[::2],
        np.arange("2026-01", "2026-07", dtype="datetime64[M]")[::2],
    ),
}


@pytest.mark.parametrize("name", IN_ORDER)
async def test_values_arrive_in_the_order_of_their_indices(
    connector: nc.Connector, other: nc.Connector, name: str
) -> None:
    make, expected = IN_ORDER[name]
    source = make()
    descriptor = nc.Descriptor(source)
    # What arrived in a copy would not reach the object.
    assert not descriptor.writable
    with pytest.raises(ValueError, match=r"local_descriptors\[0\]: expected writable memory"):
        await connector.create_writable(descriptor)
    arrived = await send(connector, other, source, expected.nbytes)
    assert arrived == np.ascontiguousarray(expected).tobytes()


def no_values() -> Iterator[tuple[str, Callable[[], Any], str]]:
    yield "sparse", lambda: torch.eye(3).to_sparse(), "to_dense"
    yield "sparse rows", lambda: torch.eye(3).to_sparse_csr(), "to_dense"
    yield "mkldnn", lambda: torch.zeros(4, 4).to_mkldnn(), "to_dense"
    yield "nested", lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "values"
    yield (
        "jagged",
        lambda: torch.nested.nested_tensor([torch.zeros(2)], layout=torch.jagged),
        "values",
    )
    yield (
        "quantized",
        lambda: torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8),
        "int_repr",
    )
    yield "fake", fake, "give the tensor that has the values"
    yield "functional", lambda: torch._to_functional_tensor(torch.zeros(4)), "give the tensor"
    yield "zeros without memory", lambda: torch._efficientzerotensor(4), "give the tensor"
    yield (
        "not initialized",
        lambda: torch.nn.UninitializedParameter(),
        "give the tensor",
    )
    yield (
        "masked tensor",
        lambda: torch.masked.masked_tensor(torch.zeros(4), torch.ones(4, dtype=torch.bool)),
        "give the tensor",
    )
    yield "objects", lambda: np.array([{"a": 1}, [2]], dtype=object), "convert it first"
    yield "a field of objects", lambda: np.zeros(2, dtype=[("a", "i4"), ("o", "O")]), "convert it"
    yield "objects, buffer", lambda: memoryview(np.array([None], dtype=object)), "convert it first"
    yield "objects, ctypes", lambda: (ctypes.py_object * 2)(), "convert it first"
    yield (
        "objects, array interface",
        lambda: only_interface(np.array([None, None], dtype=object)),
        "convert it first",
    )
    yield "strings elsewhere", lambda: np.array(["x"], dtype=np.dtypes.StringDType()), "convert it"
    yield "masked", lambda: np.ma.masked_array(np.arange(3), [0, 1, 0]), "filled"


def fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.zeros(4)


@pytest.mark.parametrize(("name", "make", "says"), list(no_values()))
def test_what_holds_no_values_is_refused_with_what_to_call(
    name: str, make: Callable[[], Any], says: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = make()
    with pytest.raises(TypeError, match=rf"^data: expected .*{says}"):
        nc.Descriptor(data)


def test_inside_a_function_that_torch_transforms() -> None:
    def describe(x: torch.Tensor) -> torch.Tensor:
        with pytest.raises(TypeError, match="give the tensor that has the values"):
            nc.Descriptor(x)
        return x.sum()

    torch.func.vmap(describe)(torch.zeros(2, 3))
    torch.func.grad(describe)(torch.zeros(3))


def test_values_that_are_all_there_are_taken() -> None:
    nothing_masked = np.ma.masked_array(np.arange(3))
    assert nc.Descriptor(nothing_masked).ptr == nothing_masked.data.ctypes.data
    for data in (
        np.zeros(2, dtype=[("O", "i4"), ("b", "f8")]),  # a field that has the name of a kind
        torch.nn.Parameter(torch.zeros(3)),
        torch.zeros(3).as_subclass(type("Mine", (torch.Tensor,), {})),
        torch.zeros(4, dtype=torch.float8_e4m3fn),
        torch.zeros((1, 4))[:, ::1],
    ):
        assert nc.Descriptor(data).writable


async def test_bytes_are_not_written_twice(connector: nc.Connector, other: nc.Connector) -> None:
    pool = np.zeros(64, dtype=np.uint8)
    pieces = [pool[:16], pool[32:48], pool[8:24], pool[48:]]
    with pytest.raises(ValueError, match=r"local_descriptors\[2\].*local_descriptors\[0\] has too"):
        await connector.create_writable(pieces)
    base = pool.ctypes.data
    with pytest.raises(ValueError, match=r"local_descriptors\[1\].*local_descriptors\[0\] has too"):
        await connector.create_writable(nc.DescriptorList([base, base], 8, owner=pool))
    # They may be sent twice.
    async with connector.create_readable(pieces) as offer:
        targets = [bytearray(16) for _ in pieces]
        with pytest.raises(ValueError, match="has too"):
            await other.begin_read(offer.metadata(), pieces)
        async with other.begin_read(offer.metadata(), targets) as read:
            await read.wait_for_completion()
    async with connector.create_writable([pool[16:32], pool[:16]]) as offer:
        assert len(offer.local_descriptors) == 2


# What memory is behind, and whether it stays.


def test_memory_behind_torch_that_may_not_be_written(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not nc.Descriptor(torch.frombuffer(b"0" * 64, dtype=torch.uint8)).writable
        assert nc.Descriptor(torch.frombuffer(bytearray(64), dtype=torch.uint8)).writable
        assert nc.Descriptor(torch.from_numpy(np.zeros(8))).writable
        file = tmp_path / "values"
        file.write_bytes(bytes(8192))
        with file.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 8192, prot=mmap.PROT_READ)
        tensor = torch.frombuffer(mapped, dtype=torch.uint8)
        assert not nc.Descriptor(tensor).writable
        assert not nc.Descriptor(OnlyDLPack(tensor)).writable
        assert not nc.Descriptor((tensor.data_ptr(), 64)).writable
        connector = nc.Connector("never started")
        for memory in (tensor, (tensor.data_ptr(), 64, "cpu", mapped)):
            with pytest.raises(ValueError, match="expected writable memory"):
                connector.create_writable_blocking(memory)
        pieces = nc.DescriptorList([tensor.data_ptr()], 64, owner=mapped)
        with pytest.raises(ValueError, match="expected writable memory"):
            connector.create_writable_blocking(pieces)
        connector.close()


@pytest.mark.parametrize(
    "what",
    ["an array over it", "itself as the owner", "its buffer as the owner", "a list over it"],
)
async def test_shared_memory_stays_while_it_is_offered(
    connector: nc.Connector, other: nc.Connector, what: str
) -> None:
    def given(shared: shared_memory.SharedMemory, what: str) -> Any:
        array = np.ndarray(4096, np.uint8, buffer=shared.buf)
        array[:] = 9
        address = array.ctypes.data
        return {
            "an array over it": array[10:],
            "itself as the owner": (address, 4096, "cpu", shared),
            "its buffer as the owner": (address, 4096, "cpu", shared.buf),
            "a list over it": nc.DescriptorList([address], 4096, owner=array),
        }[what]

    shared = shared_memory.SharedMemory(create=True, size=4096)
    try:
        offer = await connector.create_readable(given(shared, what))
        with pytest.raises(BufferError):
            shared.close()
        size = offer.local_descriptors[0].size
        arrived = bytearray(size)
        async with other.begin_read(offer.metadata(), arrived) as read:
            await read.wait_for_completion()
        assert arrived == b"\x09" * size
        await offer.wait_for_release()
        del offer
        gc.collect()
        shared.close()
    finally:
        shared.unlink()


@pytest.mark.parametrize("as_list", [False, True])
def test_an_owner_s_buffer_is_held(as_list: bool) -> None:
    data = bytearray(64)
    address = ctypes.addressof(ctypes.c_char.from_buffer(data))
    if as_list:
        described: Any = nc.DescriptorList([address], 64, owner=data)
    else:
        described = nc.Descriptor((address, 64, "cpu", data))
        assert described._data_ref is data
    with pytest.raises(BufferError):
        data.extend(b"more")
    del described
    data.extend(b"more")


def test_a_storage_outlives_its_tensor() -> None:
    tensor = torch.full((1 << 20,), 7, dtype=torch.uint8)
    descriptor = nc.Descriptor(tensor)
    address = descriptor.ptr
    tensor.data = torch.zeros(1)
    assert set(ctypes.string_at(address, 1 << 20)) == {7}


def resize_storage(tensor: torch.Tensor) -> None:
    tensor.untyped_storage().resize_(0)


def resize_storage_up(tensor: torch.Tensor) -> None:
    tensor.untyped_storage().resize_(1 << 22)


def set_anew(tensor: torch.Tensor) -> None:
    tensor.set_(torch.ones(4))


def set_data(tensor: torch.Tensor) -> None:
    tensor.data = torch.ones(4)


@pytest.mark.parametrize("move", [resize_storage, resize_storage_up, set_anew, set_data])
async def test_memory_that_has_moved_is_found_out(
    connector: nc.Connector, other: nc.Connector, move: Callable[[torch.Tensor], None]
) -> None:
    tensor = torch.full((1 << 16,), 7.0)
    descriptor = nc.Descriptor(tensor)
    offer = await connector.create_readable(descriptor)
    target = torch.zeros(1 << 16)
    aim = nc.Descriptor(target)
    move(tensor)
    move(target)
    moved = r"local_descriptors\[0\].*resized or set anew"
    with pytest.raises(ValueError, match=moved):
        offer.metadata()
    for make in (
        lambda: connector.create_readable(descriptor),
        lambda: connector.create_writable([descriptor]),
    ):
        with pytest.raises(ValueError, match=moved):
            await make()
    async with connector.create_readable(torch.zeros(1 << 16)) as good:
        with pytest.raises(ValueError, match=moved):
            await other.begin_read(good.metadata(), aim)
    offer.cancel()


async def test_an_array_that_was_resized_is_found_out(connector: nc.Connector) -> None:
    array = np.zeros(1 << 20, dtype=np.uint8)
    descriptor = nc.Descriptor(array)
    array.resize(1 << 25, refcheck=False)
    with pytest.raises(ValueError, match="ndarray whose memory is at"):
        await connector.create_readable(descriptor)


# What people have.


async def test_memory_itself_where_a_descriptor_is_taken(
    connector: nc.Connector, other: nc.Connector
) -> None:
    whole = np.arange(8, dtype=np.uint8)
    parts = [whole[:4], torch.arange(4, 8, dtype=torch.uint8)]
    raw = (whole.ctypes.data, 8, "cpu", whole)
    for source, sizes in (
        (whole, [8]),
        (bytes(whole), [8]),
        ((whole, "cpu"), [8]),
        (raw, [8]),
        ([whole], [8]),
        (parts, [4, 4]),
        (tuple(parts), [4, 4]),
        ((nc.Descriptor(parts[0]), parts[1]), [4, 4]),
        ([(parts[0], "cpu"), (parts[1], "cpu")], [4, 4]),
        ([raw], [8]),
    ):
        targets = [np.zeros(size, dtype=np.uint8) for size in sizes]
        async with connector.create_readable(source) as offer:
            async with other.begin_read(offer.metadata(), targets) as read:
                await read.wait_for_completion()
            assert all(isinstance(d, nc.Descriptor) for d in offer.local_descriptors)
        assert np.array_equal(np.concatenate(targets), whole)
        targets = [torch.zeros(size, dtype=torch.uint8) for size in sizes]
        offer = connector.create_writable_blocking(tuple(targets))
        other.begin_write_blocking(source, offer.metadata()).wait()
        offer.wait()
        assert torch.equal(torch.cat(targets), torch.from_numpy(whole))


async def test_what_is_no_memory_is_named(connector: nc.Connector) -> None:
    for wrong, where in (
        (torch.eye(2).to_sparse(), "local_descriptors: expected a dense tensor"),
        ([b"right", "wrong"], r"local_descriptors\[1\]: expected a Descriptor.*got str"),
        ([[b"a list of lists"]], r"local_descriptors\[0\]: .*got list"),
        ([], "local_descriptors: expected at least one"),
        ((), "local_descriptors: expected at least one"),
    ):
        with pytest.raises((TypeError, ValueError), match=where):
            await connector.create_readable(wrong)  # type: ignore[arg-type]


def test_numbers_that_people_have() -> None:
    values = np.arange(16, dtype=np.uint8)
    address = np.uint64(values.ctypes.data)
    for size in (np.int64(16), np.uint8(16), torch.tensor(16)):
        descriptor = nc.Descriptor((address, size, "cpu", values))
        assert (descriptor.ptr, descriptor.size) == (values.ctypes.data, 16)
        descriptor._data_size = np.int32(5)  # type: ignore[assignment]
        assert descriptor.size == 5
        assert nc.DescriptorList([address, int(address) + 16], size)[1].size == 16
    assert len(nc.DescriptorList(range(4096, 4096 * 4, 4096), np.int64(8))) == 3
    assert nc.Device((nc.DeviceKind.CUDA, np.int64(3))) == nc.Device("cuda:3")
    connector = nc.Connector(
        "numbers",
        default_timeout=np.float32(20),
        linger=Decimal("0.5"),
        engines=np.int64(2),
        inline_limit=np.int32(0),
        progress_thread=np.bool_(False),  # type: ignore[arg-type]
        backend_parameters={"num_workers": 2},
    )
    offer = connector.create_readable_blocking(values, readers=np.int64(2), timeout=np.float32(30))
    with pytest.raises(nc.WaitTimeoutError):
        offer.wait(np.float32(0.01))
    assert nc.Connection(connector, np.int64(7)).name == "numbers-7"
    connector.close()


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("worker_id", "\udc80", ValueError),
        ("worker_id", "x" * 4080, ValueError),
        ("worker_id", "", TypeError),
        ("worker_id", 5, TypeError),
        ("backend_parameters", {"num_workers": True}, TypeError),
        ("backend_parameters", {"num_workers": [2]}, TypeError),
        ("backend_parameters", {1: "2"}, TypeError),
        ("backend_parameters", ["num_workers"], TypeError),
        ("engines", 2.0, TypeError),
        ("engines", np.zeros(3), TypeError),
        ("default_timeout", "5", TypeError),
        ("default_timeout", float("nan"), ValueError),
        ("progress_thread", "no", TypeError),
        ("foreign_peers", 1, TypeError),
        ("nixl_library", 5, TypeError),
        ("nixl_library", Path("/with\0null"), ValueError),
        ("backend", None, TypeError),
    ],
)
def test_arguments_that_are_wrong_are_named(
    argument: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=argument if argument != "worker_id" else "worker_id|name"):
        nc.Connector(**{argument: value})


async def test_the_longest_name_works() -> None:
    async with nc.Connector("ö" * 2039 + "x") as long, nc.Connector("short") as short:
        assert await send(long, short, b"four", 4) == b"four"
        assert await send(short, long, b"four", 4) == b"four"


async def test_a_library_s_path(connector: nc.Connector, other: nc.Connector) -> None:
    assert await send(connector, other, b"four", 4) == b"four"
    async with nc.Connector(nixl_library=Path(connector.nixl_library)) as third:
        assert third.nixl_library == connector.nixl_library


def test_array_interfaces_of_every_form() -> None:
    data = bytes(range(64))
    shape = {"shape": (4, 4), "typestr": "|u1", "version": 3}
    # As Pillow's: bytes, made for whoever asks.
    picture = nc.Descriptor(Has(__array_interface__={**shape, "data": data}))
    assert not picture.writable
    assert ctypes.string_at(picture.ptr, picture.size) == data[:16]
    shifted = nc.Descriptor(
        Has(__array_interface__={**shape, "data": bytearray(data), "offset": 16})
    )
    assert shifted.writable
    assert ctypes.string_at(shifted.ptr, shifted.size) == data[16:32]
    strided = nc.Descriptor(
        Has(__array_interface__={**shape, "data": data, "strides": (16, 4), "offset": 3})
    )
    assert ctypes.string_at(strided.ptr, 16) == data[3::4]
    for wrong, message in (
        ({"data": data[:15]}, "bytes 0 to 16, got one of 15"),
        ({"data": data, "offset": 50}, "bytes 50 to 66, got one of 64"),
        ({"data": data, "strides": (-4, 1)}, "bytes -12 to 4"),
        ({"data": "text"}, "expected an array interface with 'data'"),
        ({}, "expected an array interface with 'data'"),
        ({"data": data, "typestr": "u"}, "'typestr' as"),
        ({"data": data, "shape": None}, "'typestr' as"),
        ({"data": data, "typestr": "|O8"}, "pointers"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            nc.Descriptor(Has(__array_interface__={**shape, **wrong}))


def test_pictures() -> None:
    image = pytest.importorskip("PIL.Image").fromarray(GRID.astype(np.uint8)[0])
    descriptor = nc.Descriptor(image)
    assert ctypes.string_at(descriptor.ptr, descriptor.size) == image.tobytes()


# torch and NumPy half there.


class RaisesForAll(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name}: this is a stub")


def stubs() -> Iterator[types.ModuleType]:
    yield types.ModuleType("torch")
    half = types.ModuleType("torch")
    half.Tensor = torch.Tensor  # type: ignore[attr-defined]
    yield half
    anything = types.ModuleType("torch")
    anything.__getattr__ = lambda name: Has()  # type: ignore[method-assign]
    yield anything


@pytest.mark.parametrize("stub", list(stubs()), ids=["empty", "half imported", "has anything"])
@pytest.mark.parametrize("module", ["torch", "numpy"])
def test_while_a_module_is_half_there(
    monkeypatch: pytest.MonkeyPatch, stub: types.ModuleType, module: str
) -> None:
    array = np.arange(4)
    monkeypatch.setitem(sys.modules, module, stub)
    connector = nc.Connector("beside a stub")
    for data in (b"bytes", bytearray(4), array, (array, "cpu"), (array.ctypes.data, 32)):
        connector.create_readable_blocking(data).cancel()
    assert connector.is_cuda_available in (True, False)
    connector.close()


def test_packages_that_stubs_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from nixl_connect._library import nixl_library_candidates

    found = nixl_library_candidates()
    for name in ("nixl_cu12", "nixl_cu13", "nvidia"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    assert isinstance(nixl_library_candidates(), list)
    assert found


def test_temporary_files_map() -> None:
    """A writable mapping of a file is writable memory."""
    with tempfile.TemporaryFile() as file:
        file.truncate(4096)
        assert nc.Descriptor(mmap.mmap(file.fileno(), 4096)).writable
