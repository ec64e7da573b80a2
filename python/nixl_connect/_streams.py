"""What an operation on a GPU's memory waits for: the work that its streams have been given so far.

An event is recorded in each stream when an operation is asked for, and polled by the core's
engine. No thread waits for CUDA; for what else torch can do, and for JAX, one of their own does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from . import _core
from ._default import Default
from ._inspect import is_number
from ._loaded import loaded_torch
from ._local import Local
from ._memory import HOST
from .descriptor import Descriptor, DescriptorList
from .device import Device, DeviceKind

__all__ = ["Fences", "fences"]

Fences = tuple[_core.Fence, ...]

# CUDA's handle of the default stream that waits for all others that do not say otherwise.
_LEGACY = 1
_DEFAULT = Default.STREAM


def fences(stream: object, local: Local) -> Fences:
    """What an operation with these descriptors waits for.

    `stream` is one, or None for nothing, or the default: the streams that fill or use the memory
    as far as can be known; or what this has returned.
    """
    if stream is _DEFAULT:
        on_host = local._device is HOST if type(local) is Descriptor else not _core.on_device(local)
        return () if on_host else _of_current_streams(local)
    if stream is None:
        return ()
    if isinstance(stream, tuple) and all(isinstance(each, _core.Fence) for each in stream):
        return stream
    fence = _after(stream, local)
    return () if fence is None else (fence,)


def _of_current_streams(local: Local) -> Fences:
    handles: set[tuple[int, int]] = set()
    others: set[Any] = set()
    arrays: dict[int, Any] = {}
    for descriptor in local if isinstance(local, list) else (local,):
        # What is no descriptor the core refuses.
        if not isinstance(descriptor, (Descriptor, DescriptorList)):
            continue
        device, source = descriptor.device, descriptor._source
        if device.kind is DeviceKind.HOST:
            continue
        torch = loaded_torch()
        if hasattr(source, "block_until_ready"):  # JAX
            arrays[id(source)] = source
        elif device.kind is DeviceKind.XPU or (torch is not None and torch.version.hip):
            if torch is not None:
                others.add(_torch_backend(torch, device).current_stream(device.id))
        else:
            handles |= {(device.id, handle) for handle in _current_cuda_streams(device.id, source)}
    made = [_core.after_cuda_stream(*handle) for handle in handles]
    made += [_after_event(stream) for stream in others]
    made.append(_after_jax(list(arrays.values())))
    return tuple(fence for fence in made if fence is not None)


def _current_cuda_streams(device: int, source: Any) -> list[int]:
    torch = loaded_torch()
    if torch is not None and isinstance(source, torch.Tensor):
        return [torch.cuda.current_stream(device).cuda_stream]
    named = getattr(source, "__cuda_array_interface__", {}).get("stream")
    if named is not None:  # CuPy's current one at this moment, Numba's that the array is bound to
        return [named]
    if torch is not None and torch.cuda.is_initialized():
        return [_LEGACY, torch.cuda.current_stream(device).cuda_stream]
    return [_LEGACY]


def _torch_backend(torch: Any, device: Device) -> Any:
    return torch.xpu if device.kind is DeviceKind.XPU else torch.cuda


def _after(stream: Any, local: Local) -> _core.Fence | None:
    if is_number(stream) and not isinstance(stream, bool) and 0 <= int(stream) < 1 << 64:
        return _core.after_cuda_stream(_cuda_device_of(local), int(stream))
    torch = loaded_torch()
    is_cudas = torch is None or not torch.version.hip or not isinstance(stream, torch.Stream)
    if is_cudas and (found := _cuda_handle(stream)) is not None:
        handle, device = found
        return _core.after_cuda_stream(_cuda_device_of(local) if device is None else device, handle)
    if hasattr(stream, "record_event"):
        return _after_event(stream)
    raise TypeError(
        "stream: expected a stream of torch, CuPy, Numba or cuda.core, a CUDA stream's handle as a "
        f"number of 0 or more, or None, got {stream!r}"
    )


def _cuda_handle(stream: Any) -> tuple[int, int | None] | None:
    """The handle of a stream object, and its device where it says so; None for other objects."""
    # torch and CuPy say which device a default stream is of; the protocol that both have does not.
    if isinstance(handle := getattr(stream, "cuda_stream", None), int):  # torch
        return handle, getattr(stream, "device_index", None)
    if isinstance(handle := getattr(stream, "ptr", None), int) and hasattr(stream, "wait_event"):
        number = getattr(stream, "device_id", None)  # CuPy
        return handle, number if isinstance(number, int) and number >= 0 else None
    protocol = getattr(stream, "__cuda_stream__", None)  # NVIDIA's cuda.core, and others since
    if protocol is not None:
        version, handle = protocol() if callable(protocol) else protocol
        if version != 0:
            raise TypeError(
                f"stream: expected version 0 of __cuda_stream__, got {version} from {stream!r}"
            )
        return int(handle), None
    if hasattr(stream, "auto_synchronize"):  # Numba
        handle = getattr(stream.handle, "value", stream.handle)
        return int(handle or 0), None
    return None


def _cuda_device_of(local: Local) -> int:
    """The device that a default stream is of: the memory's first, else torch's current one."""
    for descriptor in local if isinstance(local, list) else (local,):
        if isinstance(descriptor, (Descriptor, DescriptorList)) and (
            descriptor.device.kind is DeviceKind.CUDA
        ):
            return descriptor.device.id
    torch = loaded_torch()
    return torch.cuda.current_device() if torch is not None and torch.cuda.is_initialized() else 0


def _after_event(stream: Any) -> _core.Fence | None:
    event = stream.record_event()
    return None if event.query() else _opened_by(event.synchronize)


def _after_jax(arrays: list[Any]) -> _core.Fence | None:
    pending = [array for array in arrays if not (hasattr(array, "is_ready") and array.is_ready())]

    def wait() -> None:
        for array in pending:
            array.block_until_ready()

    return _opened_by(wait) if pending else None


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
