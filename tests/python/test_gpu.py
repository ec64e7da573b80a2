"""Memory of GPUs, on real NIXL and the real driver; with ``cpu`` the same on any machine."""

from __future__ import annotations

import asyncio
import itertools
import sys
from typing import Any

import nixl_connect as nc
import numpy as np
import pytest
import torch
from conftest import StartPeer, run_python
from peer import contents, on_devices

GPUS = torch.cuda.device_count()


def needs(*devices: str) -> list[pytest.MarkDecorator]:
    gpus = max((int(d.partition(":")[2]) + 1 for d in devices if d != "cpu"), default=0)
    return [
        pytest.mark.skipif(gpus > GPUS, reason=f"needs {gpus} CUDA devices, torch finds {GPUS}")
    ]


def on(*devices: str) -> Any:
    """A parameter of that many devices, skipped where they are not there."""
    value = devices if len(devices) > 1 else devices[0]
    return pytest.param(value, marks=needs(*devices), id="-".join(devices))


HOST, GPU = "cpu", "cuda:0"
PLACES = [on(HOST), on(GPU)]
PAIRINGS = [
    on(*pair) for pair in [(HOST, HOST), (GPU, GPU), (GPU, HOST), (HOST, GPU), (GPU, "cuda:1")]
]
needs_gpu = needs(GPU)[0]
SIZES = [1, 4096, (1 << 20) + 3, 64 << 20]


def filled(seed: int, size: int, device: str) -> torch.Tensor:
    return torch.from_numpy(contents(seed, size)).to(device)


def empty(size: int, device: str) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.uint8, device=device)


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.equal(left.cpu(), right.cpu())


async def read(
    owner: nc.Connector, source: Any, mover: nc.Connector, target: Any, **options: Any
) -> None:
    async with owner.create_readable(source, **options) as offer:
        async with mover.begin_read(offer.metadata(), target, timeout=100, **options) as reading:
            await reading.wait_for_completion()
        await offer.wait_for_completion()


async def write(owner: nc.Connector, target: Any, mover: nc.Connector, source: Any) -> None:
    async with owner.create_writable(target) as offer:
        async with mover.begin_write(source, offer.metadata(), timeout=60) as writing:
            await writing.wait_for_completion()
        await offer.wait_for_completion()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("places", PAIRINGS)
async def test_in_one_process(
    connector: nc.Connector, other: nc.Connector, places: tuple[str, str], size: int
) -> None:
    theirs, ours = places
    for seed in range(2):
        source, target = filled(seed, size, theirs), empty(size, ours)
        await read(connector, nc.Descriptor(source), other, nc.Descriptor(target))
        assert same(source, target)
        back = empty(size, theirs)
        await write(connector, nc.Descriptor(back), other, nc.Descriptor(target))
        assert same(source, back)


@pytest.mark.parametrize("places", PAIRINGS)
async def test_between_processes(start_peer: StartPeer, places: tuple[str, str]) -> None:
    """On one GPU, or two, that is over cuda_ipc."""
    owner, mover = await asyncio.gather(start_peer(), start_peer())
    for seed, (size, kind) in enumerate(itertools.product(SIZES, ("read", "write"))):
        await move(owner, [places[0]], mover, [places[1]], kind, [size], seed)


async def move(
    owner: Any,
    there: list[str],
    mover: Any,
    here: list[str],
    kind: str,
    sizes: list[int],
    seed: int,
) -> None:
    request = {"kind": kind, "sizes": sizes, "seed": seed}
    offer = await owner.ask("offer", where=there, **request)
    assert "error" not in offer, offer
    metadata = offer["metadata"]
    moved, waited = await asyncio.gather(
        mover.ask("begin", where=here, metadata=metadata, **request),
        owner.ask("wait", key=metadata["notification_key"], seed=seed if kind == "write" else None),
    )
    assert (moved.get("status"), moved.get("right")) == ("DONE", True), moved
    assert (waited.get("status"), waited.get("right")) == ("DONE", True), waited


# Each side's devices in turn: together all pairings in one list.
MIXED = [
    pytest.param([HOST], [HOST], id="cpu"),
    pytest.param([HOST, GPU], [HOST, HOST, GPU, GPU], marks=needs_gpu, id="mixed"),
]


@pytest.mark.parametrize(("there", "here"), MIXED)
async def test_one_list(start_peer: StartPeer, there: list[str], here: list[str]) -> None:
    owner, mover = await asyncio.gather(start_peer(), start_peer())
    sizes = [1 + 997 * i for i in range(40)] + [8 << 20] * 4
    for seed, kind in enumerate(["read", "write"] * 3):
        await move(owner, there, mover, here, kind, sizes, seed)


@pytest.mark.parametrize(("there", "here"), MIXED)
async def test_many_at_once(start_peer: StartPeer, there: list[str], here: list[str]) -> None:
    owner, mover = await asyncio.gather(start_peer(), start_peer())
    await asyncio.gather(
        *[
            move(owner, there, mover, here, kind, [4096, 1 << 20, 100 + seed, 8], seed)
            for seed in range(32)
            for kind in ("read", "write")
        ]
    )


@pytest.mark.parametrize(("there", "here"), MIXED)
async def test_one_list_within_a_process(
    connector: nc.Connector, other: nc.Connector, there: list[str], here: list[str]
) -> None:
    sizes = [1 + 997 * i for i in range(16)]
    arrays = [contents(seed, size) for seed, size in enumerate(sizes)]
    sources = on_devices(arrays, there)
    targets = on_devices([np.zeros_like(array) for array in arrays], here)
    await read(
        connector, [nc.Descriptor(s) for s in sources], other, [nc.Descriptor(t) for t in targets]
    )
    assert all(same(s, t) for s, t in zip(sources, targets, strict=True))


@pytest.mark.parametrize("places", PAIRINGS)
async def test_blocks_of_a_kv_cache(
    connector: nc.Connector, other: nc.Connector, places: tuple[str, str]
) -> None:
    count, size = 10_000, 2048
    cache = filled(1, 2 * count * size, places[0]).view(2 * count, size)
    gathered = empty(count * size, places[1]).view(count, size)
    picked = np.random.default_rng(0).permutation(2 * count)[:count]
    blocks = nc.DescriptorList(
        (cache.data_ptr() + picked * size).astype(np.uint64), size, places[0], cache
    )
    targets = nc.DescriptorList(
        (gathered.data_ptr() + np.arange(count) * size).astype(np.uint64), size, places[1], gathered
    )
    await read(connector, blocks, other, targets)
    assert same(cache.cpu()[torch.from_numpy(picked)], gathered)


@pytest.mark.parametrize("place", PLACES)
async def test_a_view_with_an_offset(
    connector: nc.Connector, other: nc.Connector, place: str
) -> None:
    whole, target = filled(1, 10_000, place), empty(10_000, place)
    await read(connector, nc.Descriptor(whole[1234:5678]), other, nc.Descriptor(target[1000:5444]))
    assert same(target[1000:5444], whole[1234:5678])
    assert not target[:1000].any()
    assert not target[5444:].any()


@pytest.mark.parametrize("size", [8 << 30])
@needs_gpu
async def test_8_gib(connector: nc.Connector, other: nc.Connector, size: int) -> None:
    if torch.cuda.mem_get_info(0)[0] < 3 * size:
        pytest.skip(f"needs {3 * size >> 30} GiB of free GPU memory")
    source = torch.arange(size // 8, dtype=torch.int64, device=GPU)
    target = torch.zeros_like(source)
    await read(connector, nc.Descriptor(source), other, nc.Descriptor(target))
    assert torch.equal(source, target)


# Stream order.

SLEEP = 2_000_000_000  # cycles: a second or more


def slow_fill(tensor: torch.Tensor, value: int) -> None:
    """Gives the current stream a kernel that fills the tensor when it has slept."""
    torch.cuda._sleep(SLEEP)
    tensor.fill_(value)


@needs_gpu
async def test_wrong_data_without_and_right_data_with_the_stream(
    connector: nc.Connector, other: nc.Connector
) -> None:
    source, target = empty(1 << 20, GPU), empty(1 << 20, GPU)
    torch.cuda.synchronize()
    for _ in range(2):  # connects, by both endpoints
        await read(connector, nc.Descriptor(source), other, nc.Descriptor(target))
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        slow_fill(source, 7)
        await read(connector, nc.Descriptor(source), other, nc.Descriptor(target), stream=None)
    assert not target.any(), "read before the kernel was done"
    torch.cuda.synchronize()

    for value, options in ((8, {}), (9, {"stream": side}), (10, {"stream": side.cuda_stream})):
        with torch.cuda.stream(side):
            slow_fill(source, value)
            if options:
                with torch.cuda.stream(torch.cuda.default_stream()):
                    await read(
                        connector, nc.Descriptor(source), other, nc.Descriptor(target), **options
                    )
            else:
                await read(connector, nc.Descriptor(source), other, nc.Descriptor(target))
        assert bool((target == value).all())


@needs_gpu
async def test_a_write_waits_for_what_fills_its_source_and_a_read_for_what_uses_its_target(
    connector: nc.Connector, other: nc.Connector
) -> None:
    ours, theirs = empty(1 << 20, GPU), empty(1 << 20, GPU)
    torch.cuda.synchronize()
    slow_fill(ours, 7)
    await write(connector, nc.Descriptor(theirs), other, nc.Descriptor(ours))
    assert bool((theirs == 7).all())

    theirs.fill_(9)
    torch.cuda.synchronize()
    async with connector.create_readable(nc.Descriptor(theirs)) as offer:
        slow_fill(ours, 1)
        async with other.begin_read(offer.metadata(), nc.Descriptor(ours)) as reading:
            await reading.wait_for_completion()
    torch.cuda.synchronize()
    assert bool((ours == 9).all())


@needs_gpu
async def test_the_event_loop_goes_on_while_a_kernel_runs(connector: nc.Connector) -> None:
    source = empty(1 << 20, GPU)
    with await connector.create_readable(nc.Descriptor(source)):
        pass
    slow_fill(source, 7)
    creating = asyncio.ensure_future(connector.create_readable(nc.Descriptor(source)))
    turns = 0
    while not creating.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 100
    assert torch.cuda.current_stream().query()
    (await creating).cancel()


@needs_gpu
async def test_a_capture_goes_on(connector: nc.Connector, other: nc.Connector) -> None:
    source, target = empty(1000, GPU), empty(1000, GPU)
    side = torch.cuda.Stream()
    await read(connector, nc.Descriptor(source), other, nc.Descriptor(target))
    slow_fill(source, 7)
    creating = asyncio.ensure_future(connector.create_readable(nc.Descriptor(source)))
    await asyncio.sleep(0.01)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(side):
        graph.capture_begin()
        target.fill_(3)
        with pytest.raises(ValueError, match="stream: expected one whose work is being done"):
            await connector.create_readable(nc.Descriptor(source))
        offer = await creating
        graph.capture_end()
    offer.cancel()
    graph.replay()
    torch.cuda.synchronize()
    assert bool((target == 3).all())


# Where memory is.


@needs_gpu
def test_the_driver_knows_better() -> None:
    tensor = torch.zeros(1000, dtype=torch.uint8, device=GPU)
    with pytest.raises(ValueError, match="data: expected memory of 'cpu', got memory of cuda:0"):
        nc.Descriptor((tensor.data_ptr(), 1000, "cpu"))
    with pytest.raises(ValueError, match="data: expected memory of 'cuda:7', got memory of cuda:0"):
        nc.Descriptor((tensor, "cuda:7"))
    host = np.zeros(1000, np.uint8)
    with pytest.raises(ValueError, match="data: expected memory of 'cuda:0', got "):
        nc.Descriptor((host.ctypes.data, 1000, "cuda:0"))
    with pytest.raises(ValueError, match=r"addresses\[1\]: expected memory of 'cuda:0'"):
        nc.DescriptorList(np.array([tensor.data_ptr(), host.ctypes.data], np.uint64), 10, "cuda:0")
    nc.Descriptor((tensor.data_ptr(), 1000, "cuda:0", tensor))


@pytest.mark.parametrize("library", ["cupy", "jax", "numba"])
@needs_gpu
async def test_arrays_of_other_libraries(
    connector: nc.Connector, other: nc.Connector, library: str
) -> None:
    module = pytest.importorskip(library)
    expected = contents(1, 4096)
    if library == "cupy":
        source = module.asarray(expected)
    elif library == "jax":
        try:
            source = module.device_put(expected, module.devices("cuda")[0])
        except RuntimeError as error:
            pytest.skip(str(error))
    else:
        cuda = pytest.importorskip("numba.cuda")
        source = cuda.to_device(expected)
    target = empty(4096, GPU)
    descriptor = nc.Descriptor(source)
    assert str(descriptor.device) == GPU
    await read(connector, descriptor, other, nc.Descriptor(target))
    assert np.array_equal(target.cpu().numpy(), expected)


ALLOCATE = """
import asyncio, torch
import nixl_connect as nc

async def main():
    source = torch.full((1 << 20,), 7, dtype=torch.uint8, device="cuda:0")
    target = torch.zeros_like(source)
    async with nc.Connector("left") as left, nc.Connector("right") as right:
        try:
            offer = await left.create_readable(nc.Descriptor(source), timeout=20)
            reading = await right.begin_read(offer.metadata(), nc.Descriptor(target), timeout=20)
            await reading.wait_for_completion()
        except nc.TransferError as error:
            print("refused:", error)
        else:
            print("moved:", bool((target == 7).all()))

asyncio.run(main())
"""


@pytest.mark.parametrize("allocator", ["backend:cudaMallocAsync", "expandable_segments:True"])
@needs_gpu
def test_memory_that_rdma_cannot_always_take(allocator: str) -> None:
    """It is moved, or refused with a word on what to do."""
    result = run_python(ALLOCATE, PYTORCH_CUDA_ALLOC_CONF=allocator)
    assert result.returncode == 0, result.stderr
    moved = "moved: True" in result.stdout
    assert moved or "allocate with cudaMalloc" in result.stdout, result.stdout
    print(result.stdout, file=sys.stderr)
