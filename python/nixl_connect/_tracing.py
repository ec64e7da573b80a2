"""OpenTelemetry spans around operations, where the program uses that package's SDK.

A span begins when the operation is made. It ends when a wait reports completion or failure, when
the ``with`` block ends, or when the operation is collected. Its parent is the span that was current
at its beginning.
"""

from __future__ import annotations

import sys
from typing import Any, Protocol

from ._core import Connection as CoreConnection
from ._local import Local, count_of
from .descriptor import Descriptor

__all__ = ["OperationSpan", "begin_span", "tracer"]


class Traced(Protocol):
    """What a span says of an operation."""

    _core: CoreConnection
    _local_desc_list: Local


def tracer() -> Any:
    """A tracer where this process has loaded OpenTelemetry's SDK; None elsewhere."""
    if "opentelemetry.sdk.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    return trace.get_tracer("nixl_connect")


def begin_span(tracer: Any, operation: Traced, began: int) -> OperationSpan | None:
    """The span of an operation that was begun at `began` nanoseconds; None when nobody records
    it: it was not sampled, or the program has set no provider."""
    from opentelemetry.trace import SpanKind

    active = hasattr(type(operation), "remote")
    span = tracer.start_span(
        f"nixl_connect {type(operation).__name__}",
        kind=SpanKind.CLIENT if active else SpanKind.SERVER,
        start_time=began,
    )
    if not span.is_recording():
        return None
    local = operation._local_desc_list
    span.set_attributes(
        {
            "nixl_connect.operation": operation._core.name,
            "nixl_connect.remote": operation._core.remote_name,
            "nixl_connect.descriptors": count_of(local),
            "nixl_connect.bytes": total_bytes(local),
        }
    )
    return OperationSpan(span)


def total_bytes(local: Local) -> int:
    """Bytes of all of them, without an object for each."""
    if isinstance(local, Descriptor):
        return local.size
    if isinstance(local, list):
        return sum(descriptor.size for descriptor in local)
    return local._total_bytes


class OperationSpan:
    """The span of one operation. It ends at the latest when it is collected."""

    def __init__(self, span: Any) -> None:
        self._span = span

    def end(self, status: str, failure: BaseException | None = None) -> None:
        """Ends the span, unless it has ended."""
        span, self._span = self._span, None
        if span is None:
            return
        span.set_attribute("nixl_connect.status", status)
        if failure is not None:
            from opentelemetry.trace import StatusCode

            span.record_exception(failure)
            span.set_status(StatusCode.ERROR, str(failure))
        span.end()

    def __del__(self) -> None:
        self.end("unwatched")
