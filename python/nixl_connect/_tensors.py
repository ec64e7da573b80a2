"""The memory of a torch.Tensor, which is asked for without importing torch."""

from __future__ import annotations

from typing import Any

from . import _core
from ._memory import HOST, Memory
from .device import Device, DeviceKind

__all__ = ["memory_of_tensor"]

_KINDS = {"cpu": DeviceKind.HOST, "cuda": DeviceKind.CUDA, "xpu": DeviceKind.XPU}


def memory_of_tensor(torch: Any, tensor: Any) -> Memory:
    kind = _KINDS.get(tensor.device.type)
    if kind is None:
        raise TypeError(f"data: expected a tensor on cpu, cuda or xpu, got one on {tensor.device}")
    _check_is_dense(torch, tensor)
    try:
        in_order = tensor.is_contiguous() and not (tensor.is_conj() or tensor.is_neg())
        storage = tensor.untyped_storage()
    except (RuntimeError, NotImplementedError, ValueError):
        raise _without_memory(tensor) from None
    # torch warns whoever asks a fake tensor for its address.
    if type(tensor) is not torch.Tensor and storage.device.type == "meta":
        raise _without_memory(tensor)
    if not in_order:
        tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    address = tensor.data_ptr()
    size = tensor.numel() * tensor.element_size()
    if address == 0 and size != 0:
        raise _without_memory(tensor)
    device = HOST if kind is DeviceKind.HOST else Device((kind, tensor.get_device()))
    if not in_order:
        return Memory(address, size, device, tensor, False, tensor)
    # The storage is kept too: the tensor may be given another one.
    held = (tensor, storage)
    return Memory(address, size, device, held, _is_writable(storage, kind), tensor, tensor.data_ptr)


def _check_is_dense(torch: Any, tensor: Any) -> None:
    if tensor.is_nested:
        what, call = "nested", ".values(), or torch.nested.to_padded_tensor"
    elif tensor.layout is not torch.strided:
        what, call = tensor.layout, ".to_dense()"
    elif tensor.is_quantized:
        what, call = "quantized", ".int_repr() or .dequantize()"
    else:
        return
    raise TypeError(
        f"data: expected a dense tensor, whose memory is its values, got a {what} one; send what "
        f"{call} returns"
    )


def _without_memory(tensor: Any) -> TypeError:
    return TypeError(
        "data: expected a tensor with memory of its own, got one without "
        f"({type(tensor).__name__}: fake, functional, wrapped or not initialized, or its storage "
        "was made empty); give the tensor that has the values, as DTensor.to_local() does"
    )


def _is_writable(storage: Any, kind: DeviceKind) -> bool | None:
    """torch knows nothing of memory that may not be written, only which memory is not its own."""
    if kind is not DeviceKind.HOST or storage.resizable():
        return True
    # As of torch.frombuffer(b"...").
    return False if _core.is_bytes_object(storage.data_ptr()) else None
