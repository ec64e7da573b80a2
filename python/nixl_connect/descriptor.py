"""Pieces of memory to transfer."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast, overload
from weakref import WeakKeyDictionary

from . import _core
from .device import Device, DeviceKind
from .metadata import SerializedDescriptor

if TYPE_CHECKING:
    from .connector import Connection, Connector

__all__ = ["Descriptor", "DescriptorList"]

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


class _Memory:
    """What is found out about an object before it becomes a descriptor."""

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


def _from_torch(tensor: Any) -> _Memory:
    kinds = {"cpu": DeviceKind.HOST, "cuda": DeviceKind.CUDA, "xpu": DeviceKind.XPU}
    kind = kinds.get(tensor.device.type)
    if kind is None:
        raise TypeError(f"data: expected a tensor on cpu, cuda or xpu, got one on {tensor.device}")
    # A copy can be sent, but nothing that arrives in it would reach the tensor given.
    writable = tensor.is_contiguous()
    if not writable:
        tensor = tensor.contiguous()
    device = HOST if kind is DeviceKind.HOST else Device((kind, tensor.get_device()))
    return _Memory(
        tensor.data_ptr(), tensor.numel() * tensor.element_size(), device, tensor, writable, tensor
    )


def _from_buffer(data: object) -> _Memory:
    # The view is an export: the memory can be neither resized nor freed while it lives.
    view = memoryview(data)  # type: ignore[arg-type]
    address, size, writable, contiguous = _core.buffer_info(view)
    if contiguous:
        return _Memory(address, size, HOST, view, writable)
    copy = view.tobytes()
    address, size, _, _ = _core.buffer_info(copy)
    return _Memory(address, size, HOST, copy, False)


def _from_interface(data: object, interface: dict[str, Any], device: Device) -> _Memory:
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
    return _Memory(address, size, device, data, not read_only, data)


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


def _from_dlpack(data: object) -> _Memory:
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
    return _Memory(address, size, device, (data, owner), writable, data)


def _cuda_device_of(data: object, interface: dict[str, Any]) -> Device:
    number = _core.cuda_device_of(interface["data"][0])
    if number is None:  # no driver, as under ROCm
        device = getattr(data, "device", None)
        number = getattr(device, "id", device)
    return Device((DeviceKind.CUDA, number if isinstance(number, int) else 0))


def _from_object(data: object) -> _Memory:
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


def _from_tuple(data: tuple[Any, ...]) -> _Memory:
    if len(data) >= 2 and isinstance(data[0], int) and isinstance(data[1], int):
        if len(data) > 4:
            raise TypeError(f"data: {_EXPECTED}; got a tuple of {len(data)}")
        device = _as_device(data[2]) if len(data) >= 3 else HOST
        owner = data[3] if len(data) == 4 else None
        return _Memory(data[0], data[1], device, owner, True)
    if len(data) == 2:
        memory = _from_object(data[0])
        memory.device = _as_device(data[1])
        memory.source = data[0]
        return memory
    raise TypeError(f"data: {_EXPECTED}; got a tuple of {len(data)}")


def _as_device(value: object) -> Device:
    if isinstance(value, str):
        value = Device(value)
    if isinstance(value, Device):
        return HOST if value.kind is DeviceKind.HOST else value
    raise TypeError(f"data: expected a Device or str as the device, got {type(value).__name__}")


def _inspect(data: object) -> _Memory:
    if data is None:
        raise ValueError(f"data: {_EXPECTED}; got None")
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(data, torch.Tensor):
        return _from_torch(data)
    if isinstance(data, tuple):
        return _from_tuple(data)
    return _from_object(data)


class Descriptor(_core.Descriptor):
    """One contiguous piece of memory, to be read or written by operations.

    The memory is kept alive and registered for as long as an operation may use it, and not
    longer, unless it is registered by hand with `register_with_connector`.

    Thread safety: may be shared by threads and used in many operations at once.

    Parameters
    ----------
    data
        - a ``torch.Tensor``;
        - a pair of an array (NumPy, CuPy, ...) and a `Device` or its name;
        - ``bytes`` or ``bytearray``;
        - a tuple ``(ptr, size)``, ``(ptr, size, device)`` or ``(ptr, size, device, owner)`` of
          an address, a size in bytes, a `Device` or its name, and an object to keep alive;
        - any object with DLPack, the buffer protocol, ``__array_interface__`` or
          ``__cuda_array_interface__``.

        A tensor or buffer that is not contiguous is copied, which is good for sending only;
        so are ``bytes`` and other read-only memory. `writable` tells.

    Raises
    ------
    TypeError
        When `data` is nothing of the above.
    ValueError
        When `data` is None, empty, null, or a strided array on a device; or is not where it says,
        as the CUDA driver knows.
    """

    _source: object = None
    """What knows the stream that the memory is used on, of memory that is not the host's."""

    def __init__(self, data: Any) -> None:
        memory = _inspect(data)
        if memory.address == 0 or memory.size <= 0:
            raise ValueError(
                "data: expected at least one byte at an address that is not null, got "
                f"{memory.size} bytes at {memory.address:#x}"
            )
        super().__init__(
            memory.address,
            memory.size,
            int(memory.device.kind),
            memory.device.id,
            memory.owner,
            memory.writable,
        )
        self._data_ref = data[0] if isinstance(data, tuple) and len(data) == 2 else data
        if isinstance(data, tuple) and isinstance(data[0], int):
            self._data_ref = data[3] if len(data) == 4 else None
        self._device = memory.device
        by_hand = isinstance(data, tuple)
        if by_hand or memory.device.kind is not DeviceKind.HOST:
            _core.check_memory(self, "data")
            self._source = memory.source
        self._registrations: WeakKeyDictionary[_core.Connector, _core.Registration] = (
            WeakKeyDictionary()
        )
        self._serialized: SerializedDescriptor | None = None

    @property
    def device(self) -> Device:
        """Where the memory is."""
        return self._device

    @property
    def size(self) -> int:
        """Bytes."""
        return self._data_size

    @property
    def is_registered(self) -> bool:
        """Whether the memory is registered by hand."""
        return bool(self._registrations)

    @property
    def metadata(self) -> SerializedDescriptor:
        """The descriptor as it travels."""
        size = self._data_size
        if self._serialized is None or self._serialized.size != size:
            self._serialized = SerializedDescriptor.model_construct(
                device=str(self._device), ptr=self.ptr, size=size
            )
        return self._serialized

    @staticmethod
    def from_serialized(serialized: SerializedDescriptor) -> Descriptor:
        """The reverse of `metadata`.

        Raises
        ------
        TypeError
            When `serialized` is no `SerializedDescriptor`.
        """
        if not isinstance(serialized, SerializedDescriptor):
            raise TypeError(
                f"serialized: expected SerializedDescriptor, got {type(serialized).__name__}"
            )
        return serialized.to_descriptor()

    def register_with_connector(self, connection: Connection | Connector) -> None:
        """Register the memory with a connector, or a connection's connector, and keep it so.

        Operations that use the descriptor, or parts of its memory, then need not register it.
        It stays registered until `deregister_with_connector`, or until the descriptor dies.
        Blocks until NIXL has registered it; does nothing when it is registered already.

        Raises
        ------
        TypeError
            When `connection` is neither a `Connection` nor a `Connector`.
        TransferError
            When NIXL refuses, or the connector is closed.
        """
        core = _core_of_either(connection)
        if core not in self._registrations:
            self._registrations[core] = core.register_memory(self)

    def deregister_with_connector(self, connection: Connection | Connector) -> None:
        """Take back `register_with_connector`. Operations that use the memory keep it.

        Raises
        ------
        TypeError
            When `connection` is neither a `Connection` nor a `Connector`.
        RuntimeError
            When the memory is not registered with that connector.
        """
        registration = self._registrations.pop(_core_of_either(connection), None)
        if registration is None:
            raise RuntimeError(
                f"connection: expected one of a connector that {self!r} is registered with, "
                f"got {connection.name!r}"
            )
        registration.reset()

    def __repr__(self) -> str:
        return f"Descriptor({self})"

    def __str__(self) -> str:
        return f"ptr={self.ptr:#x}, size={self.size}, device={self._device}"


class DescriptorList(_core.DescriptorList):
    """Many pieces of memory of one owner, such as the blocks of a KV cache.

    What a list of `Descriptor` does, without an object for each: addresses and sizes go to the
    core as arrays.

    Thread safety: may be shared by threads and used in many operations at once.

    Parameters
    ----------
    addresses
        An array of 64-bit integers: the address of each piece's first byte.
    sizes
        Bytes of each piece: an array of as many 64-bit integers, or one number for all.
    device
        Where the memory is: a `Device` or its name.
    owner
        What keeps the memory alive; kept for as long as this list or an operation uses it.

    Raises
    ------
    TypeError
        When an argument is of another type.
    ValueError
        When there are no addresses, as many sizes as addresses are not given, or one is not
        above 0; or when the memory is not on the device, as the CUDA driver knows.
    """

    _source: object = None

    def __init__(
        self, addresses: Any, sizes: Any, device: Device | str = "cpu", owner: object = None
    ) -> None:
        device = _as_device(device)
        if isinstance(sizes, int):
            sizes = array("Q", [sizes]) if 0 <= sizes < 1 << 64 else array("q", [-1])
        try:
            super().__init__(addresses, sizes, int(device.kind), device.id, owner)
        except TypeError as error:
            if str(error).startswith(("addresses", "sizes")):
                raise
            raise TypeError(
                "addresses, sizes: expected arrays of 64-bit integers in host memory, got "
                f"{type(addresses).__name__} and {type(sizes).__name__}"
            ) from None
        _core.check_memory(self, "addresses")
        self._device = device
        self._owner = owner
        self._serialized: list[SerializedDescriptor] | None = None

    @property
    def device(self) -> Device:
        """Where the memory is."""
        return self._device

    @property
    def metadata(self) -> list[SerializedDescriptor]:
        """The descriptors as they travel."""
        if self._serialized is None:
            device = str(self._device)
            construct = SerializedDescriptor.model_construct
            self._serialized = [
                construct(device=device, ptr=ptr, size=size)
                for ptr, size in map(self.region, range(len(self)))
            ]
        return self._serialized

    @overload
    def __getitem__(self, index: int) -> Descriptor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Descriptor]: ...
    def __getitem__(self, index: int | slice) -> Descriptor | list[Descriptor]:
        which = range(len(self))[index]
        if isinstance(which, range):
            return [self[i] for i in which]
        return Descriptor((*self.region(which), self._device, self._owner))

    def __iter__(self) -> Iterator[Descriptor]:
        return map(self.__getitem__, range(len(self)))

    def __repr__(self) -> str:
        return f"DescriptorList({len(self)} descriptors, device={self._device})"


Sequence.register(DescriptorList)


def core_of(connection: Connection) -> _core.Connector:
    """The core's connector behind a connection. Raises `TypeError` for anything else."""
    try:
        return connection._connector_core
    except AttributeError:
        pass
    raise TypeError(f"connection: expected Connection, got {type(connection).__name__}")


def _core_of_either(connection: Connection | Connector) -> _core.Connector:
    return core_of(cast("Connection", getattr(connection, "_shared_connection", connection)))
