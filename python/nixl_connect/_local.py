"""What an operation is given on its own side: descriptors, or memory itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, Union

from typing_extensions import Buffer

from ._core import MANY_DESCRIPTORS
from ._inspect import is_number
from ._memory import EXPECTED
from .descriptor import Descriptor, DescriptorList
from .device import Device

__all__ = ["Local", "LocalDescriptors", "as_descriptors", "check_addresses", "count_of", "is_large"]

_OR_DATA = EXPECTED.removeprefix("expected ")

Local: TypeAlias = Union[Descriptor, "list[Descriptor]", DescriptorList]
"""What an operation has."""


class SupportsDLPack(Protocol):
    """An object with DLPack."""

    @property
    def __dlpack__(self) -> Any: ...


class SupportsArrayInterface(Protocol):
    """An object with NumPy's array interface."""

    @property
    def __array_interface__(self) -> Any: ...


class SupportsCudaArrayInterface(Protocol):
    """An object with Numba's array interface for CUDA."""

    @property
    def __cuda_array_interface__(self) -> Any: ...


Data: TypeAlias = (
    Descriptor
    | Buffer
    | SupportsDLPack
    | SupportsArrayInterface
    | SupportsCudaArrayInterface
    | tuple[Any, ...]
)

LocalDescriptors: TypeAlias = DescriptorList | Data | Sequence[Data]
"""What an operation is given: a `Descriptor`, whatever one can be made of, a list or tuple of
these, or a `DescriptorList`."""


def as_descriptors(local: LocalDescriptors) -> Local:
    """What an operation has of what its caller gave: descriptors as they are, and of anything else
    one is made. Raises `TypeError` and `ValueError`, which begin with "local_descriptors"."""
    if isinstance(local, (Descriptor, DescriptorList)):
        return local
    if isinstance(local, list):
        # The caller's own list, if it has nothing but descriptors.
        if all(isinstance(item, Descriptor) for item in local):
            return local
        return [_descriptor_of(item, f"local_descriptors[{i}]") for i, item in enumerate(local)]
    if isinstance(local, tuple) and _is_tuple_of_memory(local):
        return [_descriptor_of(item, f"local_descriptors[{i}]") for i, item in enumerate(local)]
    return _descriptor_of(local, "local_descriptors")


def count_of(local: Local) -> int:
    """How many pieces of memory they are."""
    return 1 if isinstance(local, Descriptor) else len(local)


def is_large(local: Local) -> bool:
    """Whether they are so many that work on them would hold an event loop."""
    return not isinstance(local, Descriptor) and len(local) >= MANY_DESCRIPTORS


def check_addresses(local: Local) -> None:
    """Raises `ValueError` where the memory of one was moved since it was made."""
    if isinstance(local, DescriptorList):
        return
    for i, descriptor in enumerate([local] if isinstance(local, Descriptor) else local):
        if not descriptor._has_stayed:
            descriptor._check_address(i)


def _is_tuple_of_memory(items: tuple[Any, ...]) -> bool:
    """Whether each is memory, and the whole not what one `Descriptor` is made of."""
    is_one = len(items) == 2 and isinstance(items[1], (str, Device))
    return not items or not (is_one or is_number(items[0]))


def _descriptor_of(data: Any, argument: str) -> Descriptor:
    if isinstance(data, Descriptor):
        return data
    try:
        return Descriptor(data)
    except (TypeError, ValueError) as error:
        text = str(error)
        if not text.startswith("data: "):
            raise
        of = TypeError if data is None else type(error)
        text = text.removeprefix("data: ").replace(EXPECTED, f"expected a Descriptor, {_OR_DATA}")
        raise of(f"{argument}: {text}") from None
