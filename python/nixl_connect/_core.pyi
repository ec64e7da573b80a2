"""The C++ core of nixl_connect. Private: use the package's own names."""

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any


def set_leak_warnings(enabled: bool) -> None:
    """
    Whether nanobind says at the interpreter's exit what has not been released.
    """

def version() -> str:
    """The package's."""

class CompletionQueue:
    """Tokens of what has happened, and a descriptor to poll for them."""

    def __init__(self) -> None: ...

    def fileno(self) -> int:
        """The descriptor: readable while there are tokens."""

    def drain(self, into: list[int]) -> None:
        """Appends the tokens that have arrived."""

class Descriptor:
    """One contiguous piece of memory."""

    def __init__(self, address: int, size: int, kind: int, device_id: int, owner: object | None, writable: bool | None, movable: bool) -> None: ...

    @property
    def _has_stayed(self) -> bool:
        """Whether its owner is known to have it where it was."""

    @property
    def ptr(self) -> int:
        """Address of the first byte."""

    @property
    def _data_size(self) -> int:
        """
        Size in bytes. May be made smaller, and again as large as the memory; operations begun afterwards follow.
        """

    @_data_size.setter
    def _data_size(self, value: object | None) -> None: ...

    @property
    def writable(self) -> bool:
        """
        Whether a transfer may write to the memory. Of memory that does not say, as behind an address, the system is asked when this is read, or needed, for the first time.
        """

class DescriptorList:
    """Many pieces of memory of one owner."""

    def __init__(self, addresses: object, sizes: object, kind: int, device_id: int, owner: object | None) -> None: ...

    def __len__(self) -> int: ...

    @property
    def _total_bytes(self) -> int:
        """Bytes of all of them."""

    def region(self, index: int) -> tuple[int, int]:
        """(address, size) of one of them."""

def on_device(local_descriptors: object | None) -> bool:
    """Whether any of the descriptors is of memory that is not the host's."""

def check_memory(descriptors: object, argument: str) -> None:
    """
    Raises ValueError when the CUDA driver knows the memory to be elsewhere.
    """

def cuda_device_of(address: int) -> int | None:
    """The device that has memory there, as the CUDA driver knows."""

def parse_device(text: str) -> tuple[int, int]:
    """(kind, id) of 'cpu', 'cuda:N' or 'xpu:N'."""

MANY_DESCRIPTORS: int = 4096

class RdmaMetadata:
    """Metadata without a Python object for each piece."""

    @staticmethod
    def from_bytes(bytes: bytes) -> RdmaMetadata:
        """Raises RejectedMetadataError for what is no metadata."""

    @staticmethod
    def from_model(model: object) -> RdmaMetadata:
        """Of nixl_connect.RdmaMetadata."""

    def __len__(self) -> int: ...

    @property
    def notification_key(self) -> str: ...

    @notification_key.setter
    def notification_key(self, arg: str, /) -> None: ...

    @property
    def nixl_metadata(self) -> str: ...

    @nixl_metadata.setter
    def nixl_metadata(self, arg: str, /) -> None: ...

    @property
    def operation_kind(self) -> int: ...

    def descriptor(self, index: int) -> tuple[str, int, int]:
        """(device, address, size) of one of them."""

    def signed_descriptors(self) -> bytes:
        """What is signed of the descriptors."""

    def to_bytes(self) -> bytes: ...

def encode_nixl_metadata(blob: bytes, hex: bool) -> str:
    """The text of a NIXL blob, as it travels."""

def decode_nixl_metadata(text: str) -> bytes:
    """The NIXL blob in a text, bounded in size."""

def join_nixl_metadata(connection: bytes, buffer: bytes) -> bytes:
    """How to reach an agent, of one NIXL blob, with the regions in another."""

def agent_name_of(blob: bytes) -> str:
    """The agent's name in a NIXL blob, which is checked from end to end."""

class Fence:
    """What must have happened before an operation may begin."""

class Gate:
    """A fence that is opened once, by any thread."""

    def __init__(self) -> None: ...

    def fence(self) -> Fence: ...

    def open(self, failure: str | None = None) -> None:
        """Lets operations pass; with a failure, makes them fail."""

def after_cuda_stream(device: int, stream: int) -> Fence | None:
    """The work that the stream has been given so far; None when it is done."""

def buffer_info(object: object) -> tuple[int, int, bool]:
    """(address, bytes, writable) of an object with the buffer protocol."""

def is_bytes_object(address: int) -> bool:
    """Whether the memory there is that of a `bytes` object."""

def copy_in_order(address: int, shape: Sequence[int], strides: Sequence[int], item: int) -> bytes:
    """An array's items in the order of their indices; strides are in bytes."""

def dlpack_info(object: object) -> tuple[int, int, list[int], list[int], int, bool, int, int, object]:
    """
    (address, bytes, shape, strides, item, writable, device type, device id, owner) of an object with DLPack; strides and item are bytes, the device type is DLPack's number.
    """

READY: int = 0

ENDED: int = 1

RELEASED: int = 2

class Connection:
    """The core's side of one operation."""

    @property
    def name(self) -> str: ...

    @property
    def notification_key(self) -> str: ...

    @property
    def remote_name(self) -> str: ...

    @property
    def status(self) -> int: ...

    @property
    def failure(self) -> tuple[str, str] | None:
        """(code, message), or None."""

    def reached(self, milestone: int) -> bool: ...

    def nixl_metadata(self, hex: bool) -> str:
        """What a passive operation offers; waits until it is registered."""

    def draft(self, hex: bool, count: int) -> RdmaMetadata:
        """
        What a passive operation of so many pieces is about to send; waits until it is registered.
        """

    def wire(self, count: int) -> bytes:
        """The draft as bytes."""

    def offers(self, local_descriptors: object) -> bool:
        """
        Whether descriptors are as they were when a passive operation was made of them.
        """

    @property
    def offered(self) -> bool:
        """
        Whether a passive operation's metadata can be had, and it has not failed.
        """

    def share(self) -> None:
        """A peer may have the draft from now on."""

    def wait(self, milestone: int, timeout: float | None) -> bool:
        """
        Blocks until the milestone, or for so many seconds; returns whether it came.
        """

    def notify(self, milestone: int, queue: CompletionQueue, token: int) -> bool:
        """Has the token pushed at the milestone; False when that has passed."""

    @property
    def readers_done(self) -> int: ...

    @property
    def readers_failed(self) -> int: ...

    def notify_readers(self, count: int, queue: CompletionQueue, token: int) -> bool:
        """Has the token pushed when so many have read, or it has ended."""

    def forget(self, queue: CompletionQueue, token: int) -> None: ...

    def cancel(self) -> None: ...

class Bridge:
    """One event loop's completion queue, and the futures that wait on it."""

    def __init__(self) -> None: ...

    def fileno(self) -> int:
        """The descriptor: readable while there is something to drain."""

    def drain(self) -> None:
        """Sets the futures whose tokens have arrived."""

    @property
    def queue(self) -> CompletionQueue: ...

    def add(self, future: object) -> int:
        """The token that sets it."""

    def remove(self, token: int) -> bool:
        """Whether its future was still waited for."""

class Wait(Coroutine[Any, Any, None]):
    """
    A coroutine that ends at an operation's milestone, and raises its failure.
    """

    def __next__(self, /):
        """Implement next(self)."""

    def __init__(self, operation: object, core: object, milestone: int) -> None: ...

    def __await__(self, /):
        """Return an iterator to be used in await expression."""

    def send(self, value: object | None) -> object: ...

    def throw(self, *args) -> object: ...

    def close(self) -> None: ...

class Registration:
    """Memory registered by hand."""

    def reset(self) -> None:
        """Deregisters."""

class Connector:
    """The core's connector: one agent, one thread."""

    def __init__(self, *, name: str, backend: str, backend_parameters: Mapping[str, str], default_timeout: float | None, linger: float, progress_thread: bool, nixl_library: str, nixl_library_candidates: Sequence[str], spin: float, max_pause: float, engines: int, inline_limit: int, foreign_peers: bool | None, max_linger_bytes: int) -> None: ...

    def start(self) -> None:
        """Makes the agent, if that has not begun."""

    def notify_started(self, queue: CompletionQueue, token: int) -> bool: ...

    def check_started(self) -> bool:
        """Whether the agent is made; raises why it could not be."""

    def wait_started(self) -> None: ...

    @property
    def started(self) -> bool: ...

    def decline(self, remote_metadata: object, reason: str, timeout: float | None) -> Connection: ...

    def connect(self, remote_metadata: object, timeout: float | None) -> Connection: ...

    def register_memory(self, descriptor: Descriptor) -> Registration: ...

    def next_connection_number(self) -> int: ...

    def agent_metadata(self) -> bytes: ...

    def stats(self) -> dict[str, Any]:
        """What the connector has done and holds, by name."""

    def close(self) -> None: ...

    @property
    def nixl_library(self) -> str:
        """Path of the library in use; empty before the agent is made."""

    @property
    def closed(self) -> bool: ...

def start(operation: object, connector: object, local_descriptors: object | None, after: object, *arguments) -> None:
    """
    Gives an operation what it is made of, and begins it: with its timeout, and for how many peers, or the peer's metadata and how to reach it.
    """

class Start(Coroutine[Any, Any, Any]):
    """A coroutine that makes an operation."""

    def __next__(self, /):
        """Implement next(self)."""

    def __init__(self, connector: object, type: type, otherwise: object, local_descriptors: object, stream: object, arguments: tuple[object, ...]) -> None: ...

    def __await__(self, /):
        """Return an iterator to be used in await expression."""

    def send(self, value: object | None) -> object: ...

    def throw(self, *args) -> object: ...

    def close(self) -> None: ...
