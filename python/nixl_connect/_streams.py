"""What an operation on a GPU's memory waits for: the work that its streams have been given so far.

An event is recorded in each stream when an operation is made, and asked for by the core's engine.
No thread waits for CUDA; for what else torch can do, and for JAX, a thread of their own does.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from . import _core
from ._default import Default
from .descriptor import HOST, Descriptor, DescriptorList
from .device import Device, DeviceKind

__all__ = ["fences"]

# CUDA's handle of the default stream that waits for all others that do not say otherwise.
_LEGACY = 1
_DEFAULT = Default.STREAM


def fences(
    stream: object, local: Descriptor | list[Descriptor] | DescriptorList
) -> Sequence[_core.Fence]:
    """What an operation with these descriptors waits for.

    `stream` is one, or None for nothing, or the default: the streams that fill or use the memory
    as far as can be known.
    """
    if stream is _DEFAULT:
        on_host = local._device is HOST if type(local) is Descriptor else not _core.on_device(local)
        if on_host:
            return ()
    if stream is None:
        return ()
    if stream is not _DEFAULT:
        fence = _after(stream, local)
        return () if fence is None else (fence,)
    descriptors = local if isinstance(local, list) else (local,)
    found: dict[object, _core.Fence | None] = {}
    for descriptor in descriptors:
        if descriptor.device.kind is not DeviceKind.HOST:
            for key, make in _default_streams(descriptor):
                if key not in found:
                    found[key] = make()
    return [fence for fence in found.values() if fence is not None]


def _default_streams(
    descriptor: Descriptor | DescriptorList,
) -> Iterator[tuple[object, Callable[[], _core.Fence | None]]]:
    """What identifies a stream, and what makes its fence."""
    device, source = descriptor.device, descriptor._source
    number = device.id

    def cuda(stream: int) -> tuple[object, Callable[[], _core.Fence | None]]:
        return (number, stream), lambda: _core.after_cuda_stream(number, stream)

    torch = sys.modules.get("torch")
    if hasattr(source, "block_until_ready"):  # a JAX array
        yield id(source), lambda: _after_jax(source)
    elif device.kind is DeviceKind.XPU or (torch is not None and torch.version.hip):
        if torch is not None:
            current = _torch_backend(torch, device).current_stream(number)
            yield current, lambda: _after_event(current)
    elif torch is not None and isinstance(source, torch.Tensor):
        yield cuda(torch.cuda.current_stream(number).cuda_stream)
    elif (named := getattr(source, "__cuda_array_interface__", {}).get("stream")) is not None:
        yield cuda(named)  # CuPy's current one at this moment, Numba's that the array is bound to
    else:
        yield cuda(_LEGACY)
        if torch is not None and torch.cuda.is_initialized():
            yield cuda(torch.cuda.current_stream(number).cuda_stream)


def _torch_backend(torch: Any, device: Device) -> Any:
    return torch.xpu if device.kind is DeviceKind.XPU else torch.cuda


def _after(
    stream: Any, local: Descriptor | list[Descriptor] | DescriptorList
) -> _core.Fence | None:
    if isinstance(stream, int) and not isinstance(stream, bool) and 0 <= stream < 1 << 64:
        return _core.after_cuda_stream(_cuda_device_of(local), stream)
    handle, device = _cuda_handle(stream)
    if handle is not None:
        return _core.after_cuda_stream(_cuda_device_of(local) if device is None else device, handle)
    if hasattr(stream, "record_event"):
        return _after_event(stream)
    raise TypeError(
        "stream: expected a stream of torch, CuPy, Numba or cuda.core, a CUDA stream's handle as a "
        f"number of 0 or more, or None, got {stream!r}"
    )


def _cuda_handle(stream: Any) -> tuple[int | None, int | None]:
    """The handle of a stream object, and its device where it says so; (None, None) for others."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.version.hip and isinstance(stream, torch.Stream):
        return None, None
    protocol = getattr(stream, "__cuda_stream__", None)  # NVIDIA's cuda.core, and others since
    if protocol is not None:
        return (protocol() if callable(protocol) else protocol)[1], None
    if isinstance(handle := getattr(stream, "cuda_stream", None), int):  # torch
        return handle, getattr(stream, "device_index", None)
    if isinstance(handle := getattr(stream, "ptr", None), int):  # CuPy
        number = getattr(stream, "device_id", None)
        return handle, number if isinstance(number, int) and number >= 0 else None
    handle = getattr(stream, "handle", None)  # Numba
    handle = getattr(handle, "value", handle)
    return (handle, None) if isinstance(handle, int) else (None, None)


def _cuda_device_of(local: Descriptor | list[Descriptor] | DescriptorList) -> int:
    """The device that a default stream is of: the memory's first, else torch's current one."""
    for descriptor in local if isinstance(local, list) else (local,):
        if isinstance(descriptor, (Descriptor, DescriptorList)) and (
            descriptor.device.kind is DeviceKind.CUDA
        ):
            return descriptor.device.id
    torch = sys.modules.get("torch")
    return torch.cuda.current_device() if torch is not None and torch.cuda.is_initialized() else 0


def _after_event(stream: Any) -> _core.Fence | None:
    event = stream.record_event()
    return None if event.query() else _opened_by(event.synchronize)


def _after_jax(array: Any) -> _core.Fence | None:
    ready = getattr(array, "is_ready", None)
    if ready is not None and ready():
        return None
    return _opened_by(array.block_until_ready)


def _opened_by(wait: Callable[[], object]) -> _core.Fence:
    gate = _core.Gate()

    def wait_and_open() -> None:
        try:
            wait()
        except Exception as error:
            gate.open(f"the work on the GPU that it was to wait for has failed: {error}")
        else:
            gate.open()

    threading.Thread(target=wait_and_open, name="nixl_connect-stream", daemon=True).start()
    return gate.fence()
