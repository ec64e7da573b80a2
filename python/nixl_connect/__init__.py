"""Move memory between processes and machines with RDMA over NIXL.

A drop-in for ``dynamo.nixl_connect``: one side offers memory with `Connector.create_readable`
or `Connector.create_writable` and sends the operation's metadata by any channel; the other
side reads or writes it with `Connector.begin_read` or `Connector.begin_write`; both await its
completion.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    from . import _core
except ImportError as _error:
    if _error.name != __name__:
        raise
    raise ImportError(
        f"{__path__[0]} has sources only, without the compiled module: run from another folder to "
        "have the package that is installed, or install this one with pip",
        name=__name__,
    ) from None
from ._call import OperationCall
from ._operation import AbstractOperation, OperationKind, OperationStatus
from ._remote import Remote
from .connection import Connection
from .connector import Connector
from .descriptor import Descriptor, DescriptorList
from .device import Device, DeviceKind
from .errors import (
    BackendError,
    ConnectorClosedError,
    DeadlineExceededError,
    ForkedProcessError,
    NixlNotFoundError,
    OfferClosedError,
    OperationCancelledError,
    OperationStateError,
    PeerDisconnectedError,
    PeerUnreachableError,
    RejectedMetadataError,
    RemoteFailedError,
    TransferError,
    WaitTimeoutError,
)
from .operations import (
    ActiveOperation,
    PassiveOperation,
    ReadableOperation,
    ReadOperation,
    WritableOperation,
    WriteOperation,
)
from .replace import install, uninstall
from .stats import ConnectorStats, OperationStats

if TYPE_CHECKING:
    from .metadata import RdmaMetadata, SerializedDescriptor

__version__ = _core.version()

__all__ = [
    "AbstractOperation",
    "ActiveOperation",
    "BackendError",
    "Connection",
    "Connector",
    "ConnectorClosedError",
    "ConnectorStats",
    "DeadlineExceededError",
    "Descriptor",
    "DescriptorList",
    "Device",
    "DeviceKind",
    "ForkedProcessError",
    "NixlNotFoundError",
    "OfferClosedError",
    "OperationCall",
    "OperationCancelledError",
    "OperationKind",
    "OperationStateError",
    "OperationStats",
    "OperationStatus",
    "PassiveOperation",
    "PeerDisconnectedError",
    "PeerUnreachableError",
    "RdmaMetadata",
    "ReadOperation",
    "ReadableOperation",
    "RejectedMetadataError",
    "Remote",
    "RemoteFailedError",
    "SerializedDescriptor",
    "TransferError",
    "WaitTimeoutError",
    "WritableOperation",
    "WriteOperation",
    "install",
    "uninstall",
]


def __getattr__(name: str) -> Any:
    """The models, which are loaded when first asked for."""
    if name not in ("RdmaMetadata", "SerializedDescriptor", "metadata"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    module = import_module(f"{__name__}.metadata")
    value = module if name == "metadata" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
