"""The memory of arrays and buffers: NumPy's, and what has one of the protocols for them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from . import _core
from ._memory import EXPECTED, HOST, Memory, hold_base
from .device import Device, DeviceKind

__all__ = ["memory_of_array", "memory_of_object"]

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


def memory_of_array(numpy: Any, array: Any) -> Memory:
    dtype = array.dtype
    if dtype.hasobject or dtype.kind == "T":  # StringDType, whose strings are elsewhere
        raise _of_pointers(f"dtype {dtype}")
    masked = sys.modules.get("numpy.ma")
    if (
        masked is not None
        and isinstance(array, masked.MaskedArray)
        and array.mask is not masked.nomask
    ):
        raise TypeError(
            "data: expected an array of values, got a masked one; send what .filled() returns, or "
            ".data and .mask"
        )
    flags = array.flags
    if not flags.c_contiguous:
        copy = numpy.ascontiguousarray(array)
        return Memory(_address_of(copy), copy.nbytes, HOST, copy, False)
    base = hold_base(numpy, array)
    owner = array if base is None else (array, base)
    writable = bool(flags.writeable)
    # Only memory of its own can be moved.
    address_now = partial(_address_of, array) if flags.owndata else None
    return Memory(_address_of(array), array.nbytes, HOST, owner, writable, None, address_now)


def _address_of(array: Any) -> int:
    try:
        return _core.buffer_info(array)[0]
    except (BufferError, ValueError, TypeError):  # of times: buffers have no format for them
        return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


def _of_pointers(what: str) -> TypeError:
    return TypeError(
        f"data: expected memory that holds values, got {what}, which holds pointers to them; "
        "convert it first, as to a numeric type or to bytes"
    )


def memory_of_object(data: object) -> Memory:
    interface = getattr(data, "__cuda_array_interface__", None)
    if interface is not None:
        return _from_cuda_interface(data, interface)
    try:
        view = memoryview(data)  # type: ignore[arg-type]
    except (TypeError, BufferError, ValueError):
        pass
    else:
        return _from_buffer(view)
    interface = getattr(data, "__array_interface__", None)
    if interface is not None:
        return _from_interface(data, interface)
    if hasattr(data, "__dlpack__"):
        return _from_dlpack(data)
    raise TypeError(f"data: {EXPECTED}; got {type(data).__name__}")


def _from_buffer(view: memoryview) -> Memory:
    # The view is an export: the memory can be neither resized nor freed while it lives.
    form = view.format
    # But for the names of fields, which may have any letters.
    if "O" in form and "O" in re.sub(":[^:]*:", "", form):
        raise _of_pointers(f"a buffer of format {form!r}")
    address, size, writable = _core.buffer_info(view)
    if view.c_contiguous:
        return Memory(address, size, HOST, view, writable)
    return _of_bytes(view.tobytes())


def _of_bytes(copy: bytes) -> Memory:
    address, size, _ = _core.buffer_info(copy)
    return Memory(address, size, HOST, copy, False)


def _layout(interface: dict[str, Any]) -> tuple[Sequence[int], Sequence[int] | None, int]:
    """Shape, strides and an item's bytes of an array interface."""
    typestr, shape = interface.get("typestr"), interface.get("shape")
    # A byte order, a kind, the item's bytes, and for times a unit: "<f4", "<M8[ns]".
    form = re.fullmatch(r".(.)(\d*)(\[.*\])?", typestr) if isinstance(typestr, str) else None
    if form is not None and form[1] == "O":
        raise _of_pointers(f"typestr {typestr!r}")
    if form is None or not form[2] or not isinstance(shape, tuple):
        raise TypeError(
            "data: expected an array interface with a 'typestr' as '<f4' and a tuple as its "
            f"'shape', got {typestr!r} and {shape!r}"
        )
    strides = interface.get("strides")
    return shape, None if strides is None else tuple(strides), int(form[2])


def _bytes_of(shape: Sequence[int], item: int) -> int:
    for length in shape:
        item *= length
    return item


def _extent(shape: Sequence[int], strides: Sequence[int] | None, item: int) -> tuple[int, int]:
    """From where to where the items lie, in bytes from the first."""
    if strides is None or 0 in shape:
        return 0, _bytes_of(shape, item)
    far = [stride * (length - 1) for length, stride in zip(shape, strides, strict=True)]
    return sum(min(way, 0) for way in far), sum(max(way, 0) for way in far) + item


def _from_interface(data: object, interface: dict[str, Any]) -> Memory:
    """An object with ``__array_interface__``, whose memory is named by an address, is that of a
    buffer, or its own buffer: https://numpy.org/doc/stable/reference/arrays.interface.html"""
    shape, strides, item = _layout(interface)
    where = interface.get("data")
    owner: object
    writable: bool | None
    if isinstance(where, tuple):
        address, read_only = where
        owner, writable = data, False if read_only else None
    else:
        try:
            view = memoryview(data if where is None else where)  # type: ignore[arg-type]
        except TypeError:
            raise TypeError(
                "data: expected an array interface with 'data' as an address and a flag, or a "
                f"buffer, got {type(where).__name__}"
            ) from None
        offset = interface.get("offset", 0)
        address, has, writable = _core.buffer_info(view)
        first, end = _extent(shape, strides, item)
        if offset + first < 0 or offset + end > has:
            raise ValueError(
                f"data: expected a buffer that has the array's bytes {offset + first} to "
                f"{offset + end}, got one of {has} bytes"
            )
        address += offset
        owner = (data, view)
    if strides is not None and not _is_dense(shape, strides, item):
        return _of_bytes(_core.copy_in_order(address, shape, strides, item))
    return Memory(address, _bytes_of(shape, item), HOST, owner, writable)


def _from_cuda_interface(data: object, interface: dict[str, Any]) -> Memory:
    """https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html"""
    shape, strides, item = _layout(interface)
    address, read_only = interface["data"]
    device = _cuda_device_of(data, address)
    if not _is_dense(shape, strides, item):
        raise _strided_on_device("cupy.ascontiguousarray", shape, strides)
    return Memory(address, _bytes_of(shape, item), device, data, not read_only, data)


def _strided_on_device(
    call: str, shape: Sequence[int], strides: Sequence[int] | None
) -> ValueError:
    return ValueError(
        "data: expected values in the order of their indices, without gaps (C order), got an array "
        f"on a device with shape {shape} and strides {strides}; make it contiguous first, as "
        f"{call} does"
    )


def _cuda_device_of(data: object, address: int) -> Device:
    number = _core.cuda_device_of(address)
    if number is None:  # no driver, as under ROCm
        device = getattr(data, "device", None)
        number = getattr(device, "id", device)
    return Device((DeviceKind.CUDA, number if isinstance(number, int) else 0))


def _is_dense(shape: Sequence[int], strides: Sequence[int] | None, item: int) -> bool:
    """Whether strides, in bytes, lay the items out in the order of their indices."""
    if strides is None or 0 in shape:
        return True
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != item:
            return False
        item *= length
    return True


def _from_dlpack(data: object) -> Memory:
    try:
        info = _core.dlpack_info(data)
    except RuntimeError as error:
        raise TypeError(
            f"data: {type(data).__name__} has no memory that DLPack can tell of"
        ) from error
    address, size, shape, strides, item, writable, device_type, device_id, owner = info
    kind = _DLPACK_KINDS.get(device_type)
    if kind is None:
        raise TypeError(f"data: expected memory of a host, CUDA or XPU device, got {device_type}")
    dense = _is_dense(shape, strides, item)
    if kind is not DeviceKind.HOST:
        if not dense:
            raise _strided_on_device("its library", shape, strides)
        return Memory(address, size, Device((kind, device_id)), (data, owner), writable, data)
    if not dense:
        return _of_bytes(_core.copy_in_order(address, shape, strides, item))
    # The object is kept too: it may be what keeps its exports valid.
    return Memory(address, size, HOST, (data, owner), None if writable else False)
