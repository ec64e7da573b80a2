"""Signed metadata: HMAC-SHA256 over every field, carried in the notification key.

A peer without the key takes the signature for a part of the key, and sends it back as such;
so signed metadata can be used by any peer, and a connector with a key takes signed metadata
only.
"""

from __future__ import annotations

import hmac
import json

from .errors import RejectedMetadataError
from .metadata import RdmaMetadata

__all__ = ["check_auth_key", "check_received", "sign", "verify"]

_SHORTEST_KEY = 16
_SEPARATOR = "."


def check_auth_key(auth_key: bytes | None) -> None:
    if auth_key is None:
        return
    if not isinstance(auth_key, bytes):
        raise TypeError(f"auth_key: expected bytes or None, got {type(auth_key).__name__}")
    if len(auth_key) < _SHORTEST_KEY:
        raise ValueError(f"auth_key: expected at least {_SHORTEST_KEY} bytes, got {len(auth_key)}")


def _signature(auth_key: bytes, metadata: RdmaMetadata, notification_key: str) -> str:
    fields = [
        metadata.operation_kind,
        notification_key,
        metadata.nixl_metadata,
        [[d.device, d.ptr, d.size] for d in metadata.descriptors],
    ]
    return hmac.new(auth_key, json.dumps(fields).encode(), "sha256").hexdigest()


def sign(auth_key: bytes, metadata: RdmaMetadata) -> RdmaMetadata:
    """The same metadata, signed."""
    key = metadata.notification_key
    signed = key + _SEPARATOR + _signature(auth_key, metadata, key)
    return metadata.model_copy(update={"notification_key": signed})


def verify(auth_key: bytes, metadata: RdmaMetadata) -> None:
    """Raises `RejectedMetadataError` unless the metadata is signed, and as it was signed."""
    key, _, signature = metadata.notification_key.rpartition(_SEPARATOR)
    expected = _signature(auth_key, metadata, key)
    if not hmac.compare_digest(signature.encode(), expected.encode()):
        raise RejectedMetadataError(
            "remote_metadata: not signed with this connector's auth_key, or altered since"
        )


def check_received(auth_key: bytes | None, remote_metadata: RdmaMetadata) -> None:
    """Refuse what is no metadata, and what is not signed with the key, if there is one."""
    if not isinstance(remote_metadata, RdmaMetadata):
        raise TypeError(
            f"remote_metadata: expected RdmaMetadata, got {type(remote_metadata).__name__}"
        )
    if auth_key is not None:
        verify(auth_key, remote_metadata)
