"""No byte moves before a GPU has done what its stream was given."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from typing import Any

import nixl_connect as nc
import pytest
import torch
from conftest import PLAIN, POOLED, Gpu, GpuArray


async def still_waiting(task: asyncio.Task[Any]) -> bool:
    """Whether it is, after the event loop has done much else."""
    for _ in range(20):
        await asyncio.sleep(1e-3)
    return not task.done()


async def read(by: nc.Connector, offer: nc.ReadableOperation, to: GpuArray) -> None:
    await (await by.begin_read(offer.metadata(), nc.Descriptor(to))).wait_for_completion()
    await offer.wait_for_completion()


def stream_objects(handle: int, device: int = 0) -> dict[str, object]:
    """A stream as several libraries have them."""

    class Torch:
        cuda_stream = handle
        device_index = device

        def __cuda_stream__(self) -> tuple[int, int]:
            return (0, handle)

    class CuPy:
        ptr = handle
        device_id = -1

        def wait_event(self) -> None: ...

        def __cuda_stream__(self) -> tuple[int, int]:
            return (0, handle)

    class Numba:
        handle: ctypes.c_void_p

        def auto_synchronize(self) -> None: ...

    Numba.handle = ctypes.c_void_p(handle)

    class Core:
        def __cuda_stream__(self) -> tuple[int, int]:
            return (0, handle)

    return {"handle": handle, "torch": Torch(), "CuPy": CuPy(), "Numba": Numba(), "core": Core()}


@pytest.mark.parametrize("kind", ["handle", "torch", "CuPy", "Numba", "core"])
async def test_wrong_data_without_and_right_data_with(
    gpu: Gpu, left: nc.Connector, right: nc.Connector, kind: str
) -> None:
    source, target = gpu.array(), gpu.array(device=1)
    handle = gpu.stream()
    stream = stream_objects(handle)[kind]

    gpu.fill(source, 7, handle)
    offer = await left.create_readable(nc.Descriptor(source), stream=None)
    await read(right, offer, target)
    gpu.run(handle)
    assert target.bytes() == bytes(1000)

    source.set(0)
    gpu.fill(source, 7, handle)
    creating = asyncio.create_task(_create(left, source, stream))
    assert await still_waiting(creating)
    assert left.stats().fenced == 1
    gpu.run(handle)
    await read(right, await creating, target)
    assert target.bytes() == b"\x07" * 1000


async def _create(by: nc.Connector, of: object, stream: object) -> nc.ReadableOperation:
    return await by.create_readable(nc.Descriptor(of), stream=stream)


async def test_host_memory_that_a_gpu_fills_over_real_nixl(gpu: Gpu) -> None:
    """As after a copy from the GPU that does not block."""
    source, target = bytearray(1 << 20), bytearray(1 << 20)
    address = ctypes.addressof(ctypes.c_char.from_buffer(source))
    handle = gpu.stream()
    async with nc.Connector("left") as left, nc.Connector("right") as right:
        gpu.library.fake_cuda_launch_fill(handle, 0, address, 7, len(source))
        creating = asyncio.create_task(_create(left, source, handle))
        assert await still_waiting(creating)
        gpu.run(handle)
        offer = await creating
        reading = await right.begin_read(offer.metadata(), nc.Descriptor(target))
        await reading.wait_for_completion()
    assert target == b"\x07" * len(target)


async def test_torchs_default_stream_is_of_its_own_device(gpu: Gpu, left: nc.Connector) -> None:
    """Also for host memory, which is of none: as after a copy from that device."""
    gpu.fill(gpu.array(device=1), 7)
    stream = stream_objects(0, device=1)["torch"]
    creating = asyncio.create_task(_create(left, bytearray(10), stream))
    assert await still_waiting(creating)
    gpu.run(device=1)
    with await creating:
        pass


async def test_the_streams_are_those_of_the_call(gpu: Gpu, left: nc.Connector) -> None:
    """However late its result is awaited."""
    source = gpu.array(stream=gpu.stream())
    gpu.fill(source, 7, source.stream or 0)
    call = left.create_readable(nc.Descriptor(source))
    was, source.stream = source.stream or 0, gpu.stream()
    creating = asyncio.ensure_future(call)
    assert await still_waiting(creating)
    gpu.run(was)
    with await creating:
        pass


@pytest.mark.parametrize("wrong", ["descriptor", "version", "list"])
async def test_what_is_no_stream_or_no_descriptor(gpu: Gpu, left: nc.Connector, wrong: str) -> None:
    descriptor = nc.Descriptor(gpu.array())
    with pytest.raises(TypeError) as caught:
        if wrong == "descriptor":
            await left.create_readable(descriptor, stream=descriptor)
        elif wrong == "version":
            stream = type("Stream", (), {"__cuda_stream__": lambda self: (1, 5)})()
            await left.create_readable(descriptor, stream=stream)
        else:
            await left.create_readable([descriptor, 5])  # type: ignore[list-item]
    assert str(caught.value).startswith(
        "local_descriptors[1]: expected" if wrong == "list" else "stream: expected"
    )


async def test_the_stream_that_the_array_names_is_the_default(
    gpu: Gpu, left: nc.Connector, right: nc.Connector
) -> None:
    source, target = gpu.array(), gpu.array()
    descriptor = nc.Descriptor(source)
    # As CuPy does, whatever its stream was when the descriptor was made.
    source.stream = gpu.stream()
    gpu.fill(source, 7, source.stream)
    creating = asyncio.create_task(_offer(left, descriptor))
    assert await still_waiting(creating)
    gpu.run(source.stream)
    await read(right, await creating, target)
    assert target.bytes() == b"\x07" * 1000


async def _offer(by: nc.Connector, what: nc.Descriptor | Any) -> nc.ReadableOperation:
    return await by.create_readable(what)


@pytest.mark.parametrize("form", ["pointer", "pair", "list", "array"])
async def test_memory_that_names_none_has_the_default_stream(
    gpu: Gpu, left: nc.Connector, right: nc.Connector, form: str
) -> None:
    source, target = gpu.array(device=1), gpu.array()
    what = {
        "pointer": lambda: nc.Descriptor((source.ptr, 1000, "cuda:1", source)),
        "pair": lambda: nc.Descriptor((source, "cuda:1")),
        "list": lambda: nc.DescriptorList(_numbers(source.ptr), 1000, "cuda:1"),
        "array": lambda: nc.Descriptor(source),
    }[form]()
    gpu.fill(source, 7)
    creating = asyncio.create_task(_offer(left, what))
    assert await still_waiting(creating)
    gpu.run(device=1)
    await read(right, await creating, target)
    assert target.bytes() == b"\x07" * 1000


def _numbers(*values: int) -> Any:
    import numpy as np

    return np.array(values, np.uint64)


async def test_raw_memory_waits_for_torch_too(
    gpu: Gpu, left: nc.Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = gpu.stream()
    current = type("Stream", (), {"cuda_stream": handle})
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda number: current)
    source = gpu.array()
    gpu.fill(source, 7, handle)
    creating = asyncio.create_task(_offer(left, nc.Descriptor((source.ptr, 1000, "cuda:0"))))
    assert await still_waiting(creating)
    gpu.run(handle)
    with await creating:
        pass


async def test_every_device_of_a_list_is_waited_for(gpu: Gpu, left: nc.Connector) -> None:
    sources = [gpu.array(device=device) for device in (0, 2)]
    for source in sources:
        gpu.fill(source, 7)
    descriptors = [nc.Descriptor(bytearray(10)), *map(nc.Descriptor, sources)]
    creating = asyncio.create_task(_offer(left, descriptors))
    assert await still_waiting(creating)
    gpu.run(device=2)
    assert await still_waiting(creating)
    gpu.run(device=0)
    with await creating as offer:
        assert [d.device for d in offer.metadata().descriptors] == ["cpu", "cuda:0", "cuda:2"]


async def test_the_active_side_waits_too(gpu: Gpu, left: nc.Connector, right: nc.Connector) -> None:
    """A write's source is filled, and a read's target used by an earlier kernel, before."""
    ours, theirs = gpu.array(), gpu.array(device=1)
    offer = await left.create_writable(nc.Descriptor(theirs))
    gpu.fill(ours, 7)
    write = await right.begin_write(nc.Descriptor(ours), offer.metadata())
    with pytest.raises(TimeoutError):
        await write.wait_for_completion(timeout=0.02)
    assert write.status is nc.OperationStatus.INITIALIZED
    gpu.run()
    await write.wait_for_completion()
    assert theirs.bytes() == b"\x07" * 1000

    theirs.set(9)
    readable = await left.create_readable(nc.Descriptor(theirs))
    gpu.fill(ours, 1)
    reading = await right.begin_read(readable.metadata(), nc.Descriptor(ours))
    with pytest.raises(TimeoutError):
        await reading.wait_for_completion(timeout=0.02)
    gpu.run()
    await reading.wait_for_completion()
    assert ours.bytes() == b"\x09" * 1000


def test_threads_without_an_event_loop(gpu: Gpu) -> None:
    from conftest import FAKE_NIXL

    source, target = gpu.array(), gpu.array()
    with (
        nc.Connector("left", nixl_library=str(FAKE_NIXL)) as left,
        nc.Connector("right", nixl_library=str(FAKE_NIXL)) as right,
    ):
        gpu.fill(source, 7)
        timer = threading.Timer(0.05, gpu.run)
        timer.start()
        offer = left.create_readable_blocking(nc.Descriptor(source))
        timer.join()
        right.begin_read_blocking(offer.metadata(), nc.Descriptor(target)).wait()
        assert target.bytes() == b"\x07" * 1000


async def test_the_deadline_holds_meanwhile(gpu: Gpu, left: nc.Connector) -> None:
    source = gpu.array()
    gpu.fill(source, 7)
    with pytest.raises(nc.DeadlineExceededError):
        await left.create_readable(nc.Descriptor(source), timeout=0.02)
    assert left.stats().registered_regions == 0
    gpu.run()


async def test_a_task_that_is_cancelled_meanwhile_leaves_nothing(
    gpu: Gpu, left: nc.Connector
) -> None:
    source = gpu.array()
    gpu.fill(source, 7)
    creating = asyncio.create_task(_offer(left, nc.Descriptor(source)))
    assert await still_waiting(creating)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    del creating
    for _ in range(1000):
        if left.stats().fenced == 0:
            break
        await asyncio.sleep(1e-3)
    assert left.stats().fenced == 0
    gpu.run()


async def test_a_kernel_that_fails_fails_the_operation(gpu: Gpu, left: nc.Connector) -> None:
    source = gpu.array()
    gpu.fill(source, 7)
    creating = asyncio.create_task(_offer(left, nc.Descriptor(source)))
    assert await still_waiting(creating)
    gpu.fail("cuEventQuery", 700)
    with pytest.raises(nc.BackendError, match=r"CUDA_ERROR_ILLEGAL_ADDRESS \(700\)"):
        await creating
    gpu.run()


async def test_a_stream_that_is_captured_is_refused(gpu: Gpu, left: nc.Connector) -> None:
    handle = gpu.stream()
    source = gpu.array(stream=handle)
    gpu.library.fake_cuda_capture(handle, 1)
    with pytest.raises(ValueError, match="stream: expected one whose work is being done"):
        await left.create_readable(nc.Descriptor(source))
    with await left.create_readable(nc.Descriptor(source), stream=None):
        pass
    gpu.library.fake_cuda_capture(handle, 0)


# What CUDA's driver has no part in: ROCm and XPU through torch, and JAX.


class Event:
    def __init__(self, failure: Exception | None = None) -> None:
        self.done = threading.Event()
        self.failure = failure

    def query(self) -> bool:
        return self.done.is_set()

    def synchronize(self) -> None:
        self.done.wait(30)
        if self.failure is not None:
            raise self.failure


class TorchStream:
    """What torch's streams of any accelerator have."""

    def __init__(self, event: Event) -> None:
        self.event = event

    def record_event(self) -> Event:
        return self.event


async def test_a_stream_of_another_accelerator(gpu: Gpu, left: nc.Connector) -> None:
    event = Event()
    memory = nc.Descriptor(bytearray(10))
    creating = asyncio.create_task(
        _create(left, bytearray(10), TorchStream(event)),
    )
    assert await still_waiting(creating)
    event.done.set()
    with await creating:
        pass
    with await left.create_readable(memory, stream=TorchStream(event)):
        pass


async def test_another_accelerator_that_fails(gpu: Gpu, left: nc.Connector) -> None:
    event = Event(RuntimeError("HIP error: ill"))
    creating = asyncio.create_task(_create(left, bytearray(10), TorchStream(event)))
    assert await still_waiting(creating)
    event.done.set()
    with pytest.raises(nc.BackendError, match="HIP error: ill"):
        await creating


@pytest.mark.parametrize("device", ["xpu:0", "cuda:0"])
async def test_torchs_current_stream_of_another_accelerator(
    gpu: Gpu, left: nc.Connector, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """XPUs, and GPUs as torch has them where it is built for ROCm."""
    event = Event()
    backend = torch.xpu if device == "xpu:0" else torch.cuda
    monkeypatch.setattr(backend, "current_stream", lambda number: TorchStream(event))
    if device == "cuda:0":
        monkeypatch.setattr(torch.version, "hip", "6.4")
    source = gpu.array()
    creating = asyncio.create_task(_offer(left, nc.Descriptor((source.ptr, 1000, device))))
    assert await still_waiting(creating)
    event.done.set()
    with await creating:
        pass


async def test_an_array_of_jax_is_waited_for(gpu: Gpu, left: nc.Connector) -> None:
    class JaxArray(GpuArray):
        def __init__(self) -> None:
            super().__init__(gpu, 1000, 0, PLAIN, None)
            self.event = Event()

        def is_ready(self) -> bool:
            return self.event.query()

        def block_until_ready(self) -> None:
            self.event.synchronize()

    array = JaxArray()
    before = threading.active_count()
    many = [nc.Descriptor(array)] + [nc.Descriptor(JaxArray()) for _ in range(5)]
    creating = asyncio.create_task(_offer(left, many))
    assert await still_waiting(creating)
    assert threading.active_count() == before + 1
    for descriptor in many:
        assert not creating.done()
        descriptor._data_ref.event.done.set()
    with await creating:
        pass
    with await left.create_readable(nc.Descriptor(array)):
        pass


# Where memory is.


@pytest.mark.parametrize("form", ["pointer", "pair", "list"])
async def test_the_driver_knows_better(gpu: Gpu, form: str) -> None:
    memory = gpu.array(device=1)

    def claimed(device: str) -> None:
        if form == "pointer":
            nc.Descriptor((memory.ptr, 1000, device))
        elif form == "pair":
            nc.Descriptor((memory, device))
        else:
            nc.DescriptorList(_numbers(memory.ptr, memory.ptr + 500), 500, device)

    claimed("cuda:1")
    name = r"addresses\[0\]" if form == "list" else "data"
    for wrong in ("cuda:0", "cpu"):
        with pytest.raises(
            ValueError, match=f"^{name}: expected memory of '{wrong}', got memory of cuda:1 at 0x"
        ):
            claimed(wrong)


async def test_an_array_that_does_not_say_where_it_is(gpu: Gpu) -> None:
    """As Numba's."""
    array = gpu.array(device=2)
    del array.device
    assert str(nc.Descriptor(array).device) == "cuda:2"


async def test_host_memory_is_no_gpus(gpu: Gpu) -> None:
    buffer = ctypes.create_string_buffer(100)
    with pytest.raises(ValueError, match="an address that the CUDA driver does not know"):
        nc.Descriptor((ctypes.addressof(buffer), 100, "cuda:0"))
    nc.Descriptor((ctypes.addressof(buffer), 100, "cpu"))


async def test_memory_that_cannot_be_registered_says_why(
    gpu: Gpu, left: nc.Connector, nixl_refuses: Any
) -> None:
    memory = gpu.array(kind=POOLED)
    nixl_refuses("register_mem")
    with pytest.raises(nc.BackendError, match=r"from a pool of cudaMallocAsync.*torch"):
        await left.create_readable(nc.Descriptor(memory))


@pytest.fixture
def nixl_refuses() -> Any:
    from conftest import FAKE_NIXL

    library = ctypes.CDLL(str(FAKE_NIXL))
    return lambda call: library.fake_nixl_fail(call.encode(), -2)
