"""What can go wrong, by type.

Every error of a transfer is a `TransferError`, which is a `RuntimeError`. Where Python has a type
for an error, the error is of that type too. Wrong arguments raise `TypeError` and `ValueError`.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "ConnectorClosedError",
    "DeadlineExceededError",
    "ForkedProcessError",
    "NixlNotFoundError",
    "OfferClosedError",
    "OperationCancelledError",
    "OperationStateError",
    "PeerDisconnectedError",
    "PeerUnreachableError",
    "RejectedMetadataError",
    "RemoteFailedError",
    "TransferError",
    "WaitTimeoutError",
]


class TransferError(RuntimeError):
    """Base of all errors of this library that are not plain wrong arguments."""


class OperationStateError(TransferError):
    """The call does not fit the operation's state, such as `results()` before completion."""


class ConnectorClosedError(TransferError):
    """The connector is closed, or was closed while the operation was under way."""


class ForkedProcessError(TransferError):
    """A connector was used before this process was forked from its parent."""


class NixlNotFoundError(TransferError, ImportError):
    """NIXL is not installed, or cannot be loaded."""


class RejectedMetadataError(TransferError, ValueError):
    """The peer's metadata is damaged, hostile, or contradicts itself."""


class OfferClosedError(TransferError):
    """The peer's offer was used by all the peers it was made for, was withdrawn, or has expired."""


class PeerUnreachableError(TransferError, ConnectionError):
    """The peer could not be reached: it has ended, or no network leads to it."""


class PeerDisconnectedError(TransferError, ConnectionError):
    """The peer was reached before, and was lost in the middle of this transfer."""


class RemoteFailedError(TransferError):
    """The peer reports that its side of the operation failed or was cancelled."""


class OperationCancelledError(TransferError):
    """The operation was cancelled on this side."""


class DeadlineExceededError(TransferError, TimeoutError):
    """The operation's deadline passed."""


class WaitTimeoutError(TimeoutError):
    """The time of a wait has passed. The operation goes on, and may be waited for again.

    This is no `TransferError`: nothing has failed. `DeadlineExceededError`, in contrast, means
    that the operation has ended.
    """


class BackendError(TransferError):
    """NIXL or its backend refused a call."""


_CLASSES: dict[str, type[Exception]] = {
    "invalid_argument": ValueError,
    "invalid_state": OperationStateError,
    "closed": ConnectorClosedError,
    "forked": ForkedProcessError,
    "nixl_not_found": NixlNotFoundError,
    "rejected_metadata": RejectedMetadataError,
    "offer_closed": OfferClosedError,
    "peer_unreachable": PeerUnreachableError,
    "peer_disconnected": PeerDisconnectedError,
    "remote_failed": RemoteFailedError,
    "cancelled": OperationCancelledError,
    "timed_out": DeadlineExceededError,
    "backend": BackendError,
}


def from_core(code: str, message: str) -> Exception:
    """The Python error for one of the core's."""
    return _CLASSES[code](message)
