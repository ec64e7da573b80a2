"""What an object's memory is: address, size, device, owner, and whether it may be written."""

from __future__ import annotations

import sys
from typing import Any

from . import _core
from .device import Device, DeviceKind

__all__ = ["HOST", "Memory", "as_device", "memory_of"]

_EXPECTED = (
    "expected a torch.Tensor, an (array, device) pair, bytes or bytearray, a (ptr, size, "
    "device, owner) tuple, or an object with DLPack, the buffer protocol, __array_interface__ "
    "or __cuda_array_interface__"
)

# DLPack's device types, from its header (dmlc/dlpack, DLDeviceType).
_DLPACK_KINDS = {
    1: DeviceKind.HOST,
    2: DeviceKind.CUDA,
    3: DeviceKind.HOST,  # CUDA's pinned host memory
    10: DeviceKind.CUDA,  # ROCm, which NIXL takes for CUDA
    11: DeviceKind.HOST,  # ROCm's pinned host memory
    13: DeviceKind.CUDA,  # CUDA's managed memory
    14: DeviceKind.XPU,  # oneAPI
}


class Memory:
    """What is known of an object's memory before it becomes a descriptor."""

    __slots__ = ("address", "device", "owner", "size", "source", "writable")

    def __init__(
        self,
        address: int,
        size: int,
        device: Device,
        owner: object,
        writable: bool,
        source: object = None,
    ) -> None:
        self.address = address
        self.size = size
        self.device = device
        self.owner = owner
        self.writable = writable
        self.source = source


HOST = Device((DeviceKind.HOST, 0))
"""The one that every descriptor of host memory has."""


def _from_torch(tensor: Any) -> Memory:
    kinds = {"cpu": DeviceKind.HOST, "cuda": DeviceKind.CUDA, "xpu": DeviceKind.XPU}
    kind = kinds.get(tensor.device.type)
    if kind is None:
        raise TypeError(f"data: expected a tensor on cpu, cuda or xpu, got one on {tensor.device}")
    # A copy can be sent, but nothing that arrives in it would reach the tensor given.
    writable = tensor.is_contiguous()
    if not writable:
        tensor = tensor.contiguous()
    device = HOST if kind is DeviceKind.HOST else Device((kind, tensor.get_device()))
    return Memory(
        tensor.data_ptr(), tensor.numel() * tensor.element_size(), device, tensor, writable, tensor
    )


def _from_buffer(data: object) -> Memory:
    # The view is an export: the memory can be neither resized nor freed while it lives.
    view = memoryview(data)  # type: ignore[arg-type]
    address, size, writable, contiguous = _core.buffer_info(view)
    if contiguous:
        return Memory(address, size, HOST, view, writable)
    copy = view.tobytes()
    address, size, _, _ = _core.buffer_info(copy)
    return Memory(address, size, HOST, copy, False)


def _from_interface(data: object, interface: dict[str, Any], device: Device) -> Memory:
    """An object with ``__array_interface__`` or ``__cuda_array_interface__``.

    Their form: https://numpy.org/doc/stable/reference/arrays.interface.html and
    https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
    """
    address, read_only = interface["data"]
    # A byte order, a kind, the item's bytes, and for times a unit: "<f4", "<M8[ns]".
    item = int(interface["typestr"][2:].partition("[")[0])
    size = item
    for length in interface["shape"]:
        size *= length
    if not _is_dense(interface["shape"], interface.get("strides"), item):
        raise ValueError(
            f"data: expected contiguous memory, got an array with shape {interface['shape']} "
            f"and strides {interface['strides']}; make it contiguous first"
        )
    return Memory(address, size, device, data, not read_only, data)


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...] | None, item: int) -> bool:
    if strides is None or 0 in shape:
        return True
    axes_in_order = list(zip(shape, strides, strict=True))
    for axes in (axes_in_order[::-1], axes_in_order):
        expected = item
        for length, stride in axes:
            if length != 1 and stride != expected:
                break
            expected *= length
        else:
            return True
    return False


def _from_dlpack(data: object) -> Memory:
    address, size, writable, contiguous, device_type, device_id, owner = _core.dlpack_info(data)
    kind = _DLPACK_KINDS.get(device_type)
    if kind is None:
        raise TypeError(f"data: expected memory of a host, CUDA or XPU device, got {device_type}")
    if not contiguous:
        raise ValueError(
            "data: expected contiguous memory, got a strided array; make it contiguous first"
        )
    device = HOST if kind is DeviceKind.HOST else Device((kind, device_id))
    # The object is kept too: it may be what keeps its exports valid.
    return Memory(address, size, device, (data, owner), writable, data)


def _cuda_device_of(data: object, interface: dict[str, Any]) -> Device:
    number = _core.cuda_device_of(interface["data"][0])
    if number is None:  # no driver, as under ROCm
        device = getattr(data, "device", None)
        number = getattr(device, "id", device)
    return Device((DeviceKind.CUDA, number if isinstance(number, int) else 0))


def _from_object(data: object) -> Memory:
    interface = getattr(data, "__cuda_array_interface__", None)
    if interface is not None:
        return _from_interface(data, interface, _cuda_device_of(data, interface))
    try:
        return _from_buffer(data)
    except (TypeError, BufferError, ValueError):
        pass
    interface = getattr(data, "__array_interface__", None)
    if interface is not None:
        return _from_interface(data, interface, HOST)
    if hasattr(data, "__dlpack__"):
        return _from_dlpack(data)
    raise TypeError(f"data: {_EXPECTED}; got {type(data).__name__}")


def _from_tuple(data: tuple[Any, ...]) -> Memory:
    if len(data) >= 2 and isinstance(data[0], int) and isinstance(data[1], int):
        if len(data) > 4:
            raise TypeError(f"data: {_EXPECTED}; got a tuple of {len(data)}")
        device = as_device(data[2]) if len(data) >= 3 else HOST
        owner = data[3] if len(data) == 4 else None
        return Memory(data[0], data[1], device, owner, True)
    if len(data) == 2:
        memory = _from_object(data[0])
        memory.device = as_device(data[1])
        memory.source = data[0]
        return memory
    raise TypeError(f"data: {_EXPECTED}; got a tuple of {len(data)}")


def as_device(value: object) -> Device:
    if isinstance(value, str):
        value = Device(value)
    if isinstance(value, Device):
        return HOST if value.kind is DeviceKind.HOST else value
    raise TypeError(f"data: expected a Device or str as the device, got {type(value).__name__}")


def memory_of(data: object) -> Memory:
    if data is None:
        raise ValueError(f"data: {_EXPECTED}; got None")
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(data, torch.Tensor):
        return _from_torch(data)
    if isinstance(data, tuple):
        return _from_tuple(data)
    return _from_object(data)
