"""Pieces of memory to transfer."""

from __future__ import annotations

import operator
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, overload
from weakref import WeakKeyDictionary

from . import _core
from ._inspect import as_device, is_number, memory_of
from ._memory import Memory, hold
from .device import Device, DeviceKind

if TYPE_CHECKING:
    from .metadata import SerializedDescriptor

__all__ = ["Descriptor", "DescriptorList"]


class Registrar(Protocol):
    """A `Connection` or a `Connector`: what memory is registered with by hand."""

    @property
    def name(self) -> str: ...
    @property
    def _registrar_core(self) -> _core.Connector: ...


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

        The descriptor covers the object's values, in the order of its indices (C order). A tensor
        or array whose memory does not hold them so (strided, in Fortran order, broadcast, lazily
        conjugated) is copied, and the copy is good for sending only. So are ``bytes`` and other
        read-only memory. `writable` says whether data may arrive.

    Raises
    ------
    TypeError
        When `data` is none of the above, or something whose memory holds no values: a sparse,
        nested or quantized tensor, one without memory, an array of Python objects, a masked array.
        The error says what to call first.
    ValueError
        When `data` is None, empty, null, or a strided array on a device (tensors excepted); or
        when the CUDA driver knows that the memory is not where `data` says.
    """

    _source: object = None
    """What knows the stream that the memory is used on, of memory that is not the host's."""
    _address_now: Callable[[], int] | None
    """Where the memory is now, if its owner can move it."""

    def __init__(self, data: Any) -> None:
        memory = memory_of(data)
        self._init(data, memory)
        if isinstance(data, tuple) or memory.device.kind is not DeviceKind.HOST:
            _core.check_memory(self, "data")
            self._source = memory.source

    @classmethod
    def _of_peer(cls, serialized: SerializedDescriptor) -> Descriptor:
        """What is at the address here, the driver is not asked: the memory is the peer's."""
        data = serialized.ptr, serialized.size, serialized.device, None
        made = cls.__new__(cls)
        made._init(data, memory_of(data))
        return made

    def _init(self, data: Any, memory: Memory) -> None:
        super().__init__(
            memory.address,
            memory.size,
            int(memory.device.kind),
            memory.device.id,
            memory.owner,
            memory.writable,
            memory.address_now is not None,
        )
        self._address_now = memory.address_now
        self._data_ref = data[0] if isinstance(data, tuple) and len(data) == 2 else data
        by_hand = isinstance(data, tuple)
        if by_hand and self._data_ref is not memory.source:
            self._data_ref = data[3] if len(data) == 4 else None
        self._device = memory.device
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

    def _check_address(self, index: int) -> None:
        """Asked at each use, by the core too, of memory that its owner can move."""
        if self._address_now is None:
            return
        now = self._address_now()
        if now != self.ptr:
            raise ValueError(
                f"local_descriptors[{index}]: expected the memory that the descriptor was made "
                f"of, at {self.ptr:#x}, got {type(self._data_ref).__name__} whose memory is at "
                f"{now:#x}, for it was resized or set anew; make another Descriptor"
            )

    @property
    def is_registered(self) -> bool:
        """Whether the memory is registered by hand."""
        return bool(self._registrations)

    @property
    def metadata(self) -> SerializedDescriptor:
        """The descriptor as it travels."""
        size = self._data_size
        if self._serialized is None or self._serialized.size != size:
            from .metadata import SerializedDescriptor

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
        from .metadata import SerializedDescriptor

        if not isinstance(serialized, SerializedDescriptor):
            raise TypeError(
                f"serialized: expected SerializedDescriptor, got {type(serialized).__name__}"
            )
        return Descriptor._of_peer(serialized)

    def register_with_connector(self, connection: Registrar) -> None:
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
        core = _core_of(connection)
        if core not in self._registrations:
            self._registrations[core] = core.register_memory(self)

    def deregister_with_connector(self, connection: Registrar) -> None:
        """Undo `register_with_connector`. Operations that use the memory keep it registered.

        Raises
        ------
        TypeError
            When `connection` is neither a `Connection` nor a `Connector`.
        RuntimeError
            When the memory is not registered with that connector.
        """
        registration = self._registrations.pop(_core_of(connection), None)
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


def _numbers(values: Any, argument: str) -> Any:
    """A list as an array; anything else as it is, for the core to look at."""
    if not isinstance(values, (list, tuple, range)):
        return values
    numbers = array("Q")
    for i, value in enumerate(values):
        if not is_number(value):
            raise TypeError(f"{argument}[{i}]: expected int, got {type(value).__name__}")
        number = operator.index(value)
        if not 0 < number < 1 << 64:
            raise ValueError(f"{argument}[{i}]: expected a number above 0, got {number}")
        numbers.append(number)
    return numbers


class DescriptorList(_core.DescriptorList):
    """Many pieces of memory of one owner, such as the blocks of a KV cache.

    Does the same as a list of `Descriptor`, without an object for each piece: addresses and
    sizes go to the core as arrays.

    Thread safety: may be shared by threads and used in many operations at once.

    Parameters
    ----------
    addresses
        The address of each piece's first byte: an array of 64-bit integers, or a list of numbers.
    sizes
        Bytes of each piece: as many, in the same form, or one number for all.
    device
        Where the memory is: a `Device` or its name.
    owner
        What keeps the memory alive; kept for as long as this list or an operation uses it.

    Raises
    ------
    TypeError
        When an argument is of another type.
    ValueError
        When there are no addresses, when the numbers of addresses and sizes differ, or when one
        of them is not above 0; or when the CUDA driver knows that the memory is not on the device.
    """

    _source: object = None

    def __init__(
        self, addresses: Any, sizes: Any, device: Device | str = "cpu", owner: object = None
    ) -> None:
        device = as_device(device)
        if is_number(sizes):
            sizes = [sizes]
        addresses, sizes = _numbers(addresses, "addresses"), _numbers(sizes, "sizes")
        try:
            super().__init__(addresses, sizes, int(device.kind), device.id, hold(owner))
        except TypeError as error:
            if str(error).startswith(("addresses", "sizes")):
                raise
            raise TypeError(
                "addresses, sizes: expected arrays of 64-bit integers in host memory, or lists, "
                f"got {type(addresses).__name__} and {type(sizes).__name__}"
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
            from .metadata import SerializedDescriptor

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


def _core_of(registrar: Registrar) -> _core.Connector:
    try:
        return registrar._registrar_core
    except AttributeError:
        pass
    raise TypeError(f"connection: expected Connection, got {type(registrar).__name__}")
