"""Memory of GPUs, or of the stand-ins for some; see gpus.py. With ``cpu`` the same of the host's."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from pathlib import Path
from typing import Any

import gpus
import nixl_connect as nc
import numpy as np
import pytest
from conftest import StartPeer, run_python
from nixl_connect.commands import doctor
from peer import contents, on_devices


def on(*devices: str) -> Any:
    """A parameter of that many devices, skipped where they are not there."""
    value = devices if len(devices) > 1 else devices[0]
    needed = max((int(d.partition(":")[2]) + 1 for d in devices if d != "cpu"), default=0)
    return pytest.param(
        value, marks=[pytest.mark.gpus(needed)] if needed else [], id="-".join(devices)
    )


HOST, GPU = "cpu", "cuda:0"
PLACES = [on(HOST), on(GPU)]
PAIRINGS = [
    on(*pair) for pair in [(HOST, HOST), (GPU, GPU), (GPU, HOST), (HOST, GPU), (GPU, "cuda:1")]
]
needs_gpu = pytest.mark.gpus(1)
SIZES = [1, 4096, (1 << 20) + 3, 64 << 20]


def filled(seed: int, size: int, device: str) -> Any:
    return gpus.put(contents(seed, size), device)


def empty(size: int, device: str) -> Any:
    return gpus.put(np.zeros(size, np.uint8), device)


def same(left: Any, right: Any) -> bool:
    return np.array_equal(gpus.get(left), gpus.get(right))


def holds(array: Any, value: int) -> bool:
    return bool((gpus.get(array) == value).all())


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
    cache, gathered = filled(1, 2 * count * size, places[0]), empty(count * size, places[1])
    picked = np.random.default_rng(0).permutation(2 * count)[:count]
    blocks = nc.DescriptorList(
        (gpus.address(cache) + picked * size).astype(np.uint64), size, places[0], cache
    )
    targets = nc.DescriptorList(
        (gpus.address(gathered) + np.arange(count) * size).astype(np.uint64),
        size,
        places[1],
        gathered,
    )
    await read(connector, blocks, other, targets)
    expected = gpus.get(cache).reshape(2 * count, size)[picked]
    assert np.array_equal(expected.reshape(-1), gpus.get(gathered))


@pytest.mark.parametrize("place", PLACES)
async def test_a_view_with_an_offset(
    connector: nc.Connector, other: nc.Connector, place: str
) -> None:
    whole, target = filled(1, 10_000, place), empty(10_000, place)
    await read(connector, nc.Descriptor(whole[1234:5678]), other, nc.Descriptor(target[1000:5444]))
    assert same(target[1000:5444], whole[1234:5678])
    assert holds(target[:1000], 0)
    assert holds(target[5444:], 0)


@pytest.mark.parametrize("size", [1 << 30, 8 << 30])
@needs_gpu
async def test_gigabytes(connector: nc.Connector, other: nc.Connector, size: int) -> None:
    if gpus.free_memory() < 3 * size:
        pytest.skip(f"needs {3 * size >> 30} GiB of free GPU memory")
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 6 * size:
        pytest.skip(f"needs {6 * size >> 30} GiB of free host memory")
    numbers = np.arange(size // 8)
    source, target = gpus.put(numbers, GPU), gpus.put(np.zeros_like(numbers), GPU)
    await read(connector, nc.Descriptor(source), other, nc.Descriptor(target))
    assert same(source, target)


# Stream order.


def slow_fill(array: Any, value: int) -> None:
    """Gives the current stream a kernel that fills the array when it has slept."""
    # CUDA loads a kernel at its first launch, and may wait for the device's work then.
    first = empty(array.shape[0], GPU)
    gpus.fill(first, value)
    gpus.synchronize()
    gpus.sleep()
    gpus.fill(array, value)


@needs_gpu
async def test_wrong_data_without_and_right_data_with_the_stream(
    connector: nc.Connector, other: nc.Connector
) -> None:
    source, target = empty(1 << 20, GPU), empty(1 << 20, GPU)
    gpus.synchronize()
    for _ in range(2):  # connects, by both endpoints
        await read(connector, nc.Descriptor(source), other, nc.Descriptor(target))
    side = gpus.stream()
    with gpus.use(side):
        slow_fill(source, 7)
        await read(connector, nc.Descriptor(source), other, nc.Descriptor(target), stream=None)
    assert holds(target, 0), "read before the kernel was done"
    gpus.synchronize()

    for value, options in ((8, {}), (9, {"stream": side}), (10, {"stream": gpus.handle(side)})):
        with gpus.use(side):
            slow_fill(source, value)
            if options:
                with gpus.use(gpus.default_stream()):
                    await read(
                        connector, nc.Descriptor(source), other, nc.Descriptor(target), **options
                    )
            else:
                await read(connector, nc.Descriptor(source), other, nc.Descriptor(target))
        assert holds(target, value)


@needs_gpu
async def test_a_write_waits_for_what_fills_its_source_and_a_read_for_what_uses_its_target(
    connector: nc.Connector, other: nc.Connector
) -> None:
    ours, theirs = empty(1 << 20, GPU), empty(1 << 20, GPU)
    gpus.synchronize()
    slow_fill(ours, 7)
    await write(connector, nc.Descriptor(theirs), other, nc.Descriptor(ours))
    assert holds(theirs, 7)

    gpus.fill(theirs, 9)
    gpus.synchronize()
    async with connector.create_readable(nc.Descriptor(theirs)) as offer:
        slow_fill(ours, 1)
        async with other.begin_read(offer.metadata(), nc.Descriptor(ours)) as reading:
            await reading.wait_for_completion()
    gpus.synchronize()
    assert holds(ours, 9)


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
    assert gpus.idle()
    (await creating).cancel()


@needs_gpu
async def test_a_capture_goes_on(connector: nc.Connector, other: nc.Connector) -> None:
    source, target = empty(1000, GPU), empty(1000, GPU)
    side = gpus.stream()
    await read(connector, nc.Descriptor(source), other, nc.Descriptor(target))
    slow_fill(source, 7)
    creating = asyncio.ensure_future(connector.create_readable(nc.Descriptor(source)))
    await asyncio.sleep(0.01)
    with gpus.captured(side) as graph:
        gpus.fill(target, 3)
        with pytest.raises(ValueError, match="stream: expected one whose work is being done"):
            await connector.create_readable(nc.Descriptor(source))
        offer = await creating
    offer.cancel()
    graph.replay()
    gpus.synchronize()
    assert holds(target, 3)


# Where memory is.


@needs_gpu
def test_the_driver_knows_better() -> None:
    tensor = empty(1000, GPU)
    with pytest.raises(ValueError, match="data: expected memory of 'cpu', got memory of cuda:0"):
        nc.Descriptor((gpus.address(tensor), 1000, "cpu"))
    with pytest.raises(ValueError, match="data: expected memory of 'cuda:7', got memory of cuda:0"):
        nc.Descriptor((tensor, "cuda:7"))
    host = np.zeros(1000, np.uint8)
    with pytest.raises(ValueError, match="data: expected memory of 'cuda:0', got "):
        nc.Descriptor((host.ctypes.data, 1000, "cuda:0"))
    with pytest.raises(ValueError, match=r"addresses\[1\]: expected memory of 'cuda:0'"):
        nc.DescriptorList(
            np.array([gpus.address(tensor), host.ctypes.data], np.uint64), 10, "cuda:0"
        )
    nc.Descriptor((gpus.address(tensor), 1000, "cuda:0", tensor))


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
    assert np.array_equal(gpus.get(target), expected)


def stream_of(library: str) -> tuple[Any, int]:
    """A stream as this library has it, and its handle."""
    if library == "cupy":
        made = pytest.importorskip("cupy").cuda.Stream()
        return made, made.ptr
    if library == "numba":
        made = pytest.importorskip("numba.cuda").stream()
        return made, int(getattr(made.handle, "value", made.handle))
    device = pytest.importorskip("cuda.core").Device(0)
    device.set_current()
    made = device.create_stream()
    return made, int(made.handle)


@pytest.mark.parametrize("library", ["cupy", "numba", "cuda.core"])
@needs_gpu
async def test_streams_of_other_libraries(
    connector: nc.Connector, other: nc.Connector, library: str
) -> None:
    stream, handle = stream_of(library)
    source, target = empty(1000, GPU), empty(1000, GPU)
    await read(connector, nc.Descriptor(source), other, nc.Descriptor(target))
    with gpus.use(gpus.foreign(handle)):
        slow_fill(source, 7)
    await read(connector, nc.Descriptor(source), other, nc.Descriptor(target), stream=stream)
    assert holds(target, 7)


# What UCX makes of it.


@pytest.mark.parametrize("links", ["18", "0"], ids=["NVLink", "no NVLink"])
@needs_gpu
@pytest.mark.skipif(not gpus.STAND_IN, reason="counts the stand-in's calls")
async def test_between_processes_it_is_one_copy_on_the_gpu(
    start_peer: StartPeer, links: str
) -> None:
    owner, mover = await asyncio.gather(*[start_peer(FAKE_CUDA_NVLINKS=links) for _ in range(2)])
    await move(owner, [GPU], mover, [GPU], "read", [10], 0)
    names = ["cuMemcpyDtoDAsync", "cuMemcpyAsync"]
    before = (await mover.ask("calls", names=names))["calls"]
    for seed, kind in enumerate(["read", "write"]):
        await move(owner, [GPU], mover, [GPU], kind, [16 << 20, 1 << 20], seed)
    after = (await mover.ask("calls", names=names))["calls"]
    assert [b - a for a, b in zip(before, after, strict=True)] == [4, 0]


@pytest.mark.parametrize(
    ("parameters", "piece"),
    [({}, 64 << 10), ({"engine_config": "TCP_TX_SEG_SIZE=8k"}, 8 << 10)],
    ids=["as it is", "as one says"],
)
@needs_gpu
@pytest.mark.skipif(not gpus.STAND_IN, reason="counts the stand-in's calls")
async def test_pieces_on_the_way_through_the_host(parameters: dict[str, str], piece: int) -> None:
    size = 4 << 20
    source, target = filled(1, size, GPU), empty(size, GPU)
    with (
        nc.Connector("left", backend_parameters=parameters) as left,
        nc.Connector("right", backend_parameters=parameters) as right,
    ):
        await read(left, nc.Descriptor(source), right, nc.Descriptor(target))
        before = gpus.calls("cuMemcpyAsync")
        await read(left, nc.Descriptor(source), right, nc.Descriptor(target))
        copies = gpus.calls("cuMemcpyAsync") - before
    # Out on one side, in on the other; a piece has a header.
    assert 2 * size / piece <= copies <= 2.2 * size / piece
    assert same(source, target)


ALLOCATE = """
import asyncio, sys
import gpus, numpy as np
import nixl_connect as nc

async def main(kind):
    source = gpus.put(np.full(1 << 20, 7, np.uint8), "cuda:0", kind)
    target = gpus.put(np.zeros(1 << 20, np.uint8), "cuda:0", kind)
    try:
        async with nc.Connector("left") as left, nc.Connector("right") as right:
            offer = await left.create_readable(nc.Descriptor(source), timeout=20)
            reading = await right.begin_read(offer.metadata(), nc.Descriptor(target), timeout=20)
            await reading.wait_for_completion()
    except nc.TransferError as error:
        print("refused:", error)
    else:
        print("moved:", bool((gpus.get(target) == 7).all()))

asyncio.run(main(int(sys.argv[1])))
"""


@pytest.mark.parametrize("kind", [gpus.POOLED, gpus.MAPPED], ids=["pooled", "mapped"])
@needs_gpu
def test_memory_that_rdma_cannot_always_take(kind: int) -> None:
    """It is moved, or refused with a word on what to do."""
    here = str(Path(__file__).parent)
    result = run_python(ALLOCATE, str(kind), PYTHONPATH=here, **gpus.allocators(kind))
    assert result.returncode == 0, result.stderr
    moved = "moved: True" in result.stdout
    assert moved or "allocate with cudaMalloc" in result.stdout, result.stdout
    print(result.stdout, file=sys.stderr)


@needs_gpu
def test_what_ucx_lacks_is_said(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)

    def refusal(code: str = ALLOCATE, **environment: str) -> str:
        result = run_python(code, str(gpus.PLAIN), PYTHONPATH=here, **environment)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert "moved: True" in refusal()
    for transports in ("tcp", "tcp,cuda_ipc", "^cuda_copy"):
        words = f"UCX_TLS is '{transports}', which leaves out"
        assert words in refusal(UCX_TLS=transports)
    if gpus.STAND_IN:  # else torch brings libcudart, and the system has the driver's libraries
        without = "import nixl_connect._library as library\nlibrary._RUNTIMES = {}\n" + ALLOCATE
        assert "libcudart" in refusal(without)
        assert "moved: True" in refusal(without, UCX_MEMTYPE_CACHE="n")
        (tmp_path / "libcuda.so.1").symlink_to(gpus.library())
        refused = refusal(LD_LIBRARY_PATH=str(tmp_path))
        assert "UCX has not loaded its modules for CUDA" in refused
        assert "libnvidia-ml" in refused


@needs_gpu
def test_the_doctor_moves_memory_of_a_gpu() -> None:
    findings = {f.subject: f for f in doctor._gpu()}
    assert findings["GPU"].state == "ok"
    assert "MiB" in findings["GPU"].detail
    for subject in ("read of GPU memory", "write of GPU memory"):
        assert findings[subject].state == "ok", findings
    assert "cuda_ipc" in findings["transports for GPU memory"].detail
