"""OpenTelemetry spans around operations, where the program uses that package's SDK.

A span begins when the operation is made. It ends when a wait reports completion or failure, when
the ``with`` block ends, or when the operation is collected. Its parent is the span that was current
at its beginning.
"""

from __future__ import annotations

import sys
from typing import Any, Protocol

from ._core import Connection as CoreConnection
from .descriptor import Descriptor

__all__ = ["OperationSpan", "tracer"]


class Traced(Protocol):
    """What a span says of an operation."""

    _core: CoreConnection

    @property
    def local_descriptors(self) -> list[Descriptor]: ...


def tracer() -> Any:
    """A tracer where this process has loaded OpenTelemetry's SDK; None elsewhere."""
    if "opentelemetry.sdk.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    return trace.get_tracer("nixl_connect")


class OperationSpan:
    """The span of one operation. It ends at the latest when it is collected."""

    def __init__(self, tracer: Any, operation: Traced, began: int) -> None:
        from opentelemetry.trace import SpanKind

        local = operation.local_descriptors
        self._span: Any = tracer.start_span(
            f"nixl_connect {type(operation).__name__}",
            kind=SpanKind.CLIENT if hasattr(operation, "remote") else SpanKind.SERVER,
            start_time=began,
            attributes={
                "nixl_connect.operation": operation._core.name,
                "nixl_connect.remote": operation._core.remote_name,
                "nixl_connect.descriptors": len(local),
                "nixl_connect.bytes": sum(d.size for d in local),
            },
        )

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
