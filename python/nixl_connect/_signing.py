"""Signed metadata: HMAC-SHA256 over every field, carried in the notification key.

A peer without the key takes the signature for a part of the key, and sends it back as such;
so signed metadata can be used by any peer, and a connector with a key takes signed metadata
only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _core
from ._wire import AnyMetadata, RemoteMetadata, is_model
from .errors import RejectedMetadataError

if TYPE_CHECKING:
    from .metadata import RdmaMetadata

__all__ = ["check_auth_key", "received", "refuse_unsigned", "sign", "signed_key", "verify"]

_SHORTEST_KEY = 16
_SEPARATOR = "."


def check_auth_key(auth_key: bytes | None) -> None:
    if auth_key is None:
        return
    if not isinstance(auth_key, bytes):
        raise TypeError(f"auth_key: expected bytes or None, got {type(auth_key).__name__}")
    if len(auth_key) < _SHORTEST_KEY:
        raise ValueError(f"auth_key: expected at least {_SHORTEST_KEY} bytes, got {len(auth_key)}")


def _signature(auth_key: bytes, metadata: AnyMetadata, notification_key: str) -> str:
    import hmac
    import json

    head = [metadata.operation_kind, notification_key, metadata.nixl_metadata]
    if is_model(metadata):
        fields = [*head, [[d.device, d.ptr, d.size] for d in metadata.descriptors]]
        return hmac.new(auth_key, json.dumps(fields).encode(), "sha256").hexdigest()
    # The same text, without an object for each descriptor.
    signer = hmac.new(auth_key, json.dumps(head)[:-1].encode() + b", ", "sha256")
    signer.update(metadata.signed_descriptors())
    signer.update(b"]")
    return signer.hexdigest()


def signed_key(auth_key: bytes, metadata: AnyMetadata) -> str:
    """The metadata's notification key, with the signature of all of it."""
    key = metadata.notification_key
    return key + _SEPARATOR + _signature(auth_key, metadata, key)


def sign(auth_key: bytes, metadata: RdmaMetadata) -> RdmaMetadata:
    """The same metadata, signed."""
    return metadata.model_copy(update={"notification_key": signed_key(auth_key, metadata)})


def verify(auth_key: bytes, metadata: AnyMetadata) -> None:
    """Raises `RejectedMetadataError` unless the metadata is signed, and as it was signed."""
    import hmac

    key, _, signature = metadata.notification_key.rpartition(_SEPARATOR)
    expected = _signature(auth_key, metadata, key)
    if not hmac.compare_digest(signature.encode(), expected.encode()):
        raise RejectedMetadataError(
            "remote_metadata: not signed with this connector's auth_key, or altered since"
        )


def refuse_unsigned(auth_key: bytes | None, argument: str) -> None:
    """Raises `RejectedMetadataError` where there is a key: nothing signs this."""
    if auth_key is not None:
        raise RejectedMetadataError(
            f"{argument}: not signed, which a connector with an auth_key refuses"
        )


def received(
    auth_key: bytes | None, remote_metadata: RemoteMetadata, count: int | None = None
) -> AnyMetadata | bytes:
    """What a peer sent, for the core, which reads bytes itself. Refuses what is not signed with the
    key, if there is one. `count` is how many descriptors are wanted, if any."""
    metadata: AnyMetadata
    if is_model(remote_metadata):
        metadata = remote_metadata
        if auth_key is not None and len(metadata.descriptors) >= _core.MANY_DESCRIPTORS:
            metadata = _core.RdmaMetadata.from_model(metadata)
    elif isinstance(remote_metadata, (bytes, bytearray, memoryview)):
        data = bytes(remote_metadata)
        if auth_key is None:
            return data
        metadata = _core.RdmaMetadata.from_bytes(data)
        # A few bytes may name a million: what is of no use is not worth a signature.
        if count is not None and len(metadata) != count:
            raise ValueError(
                f"local_descriptors: expected {len(metadata)} descriptors, as many as the "
                f"remote's, got {count}"
            )
    else:
        raise TypeError(
            f"remote_metadata: expected RdmaMetadata or bytes, got {type(remote_metadata).__name__}"
        )
    if auth_key is not None:
        verify(auth_key, metadata)
    return metadata
