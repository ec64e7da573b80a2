"""What all operations are: one transfer, with a status, as one side has it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from enum import IntEnum
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, SupportsFloat, TypeVar

from . import _asyncio, _core
from ._arguments import check_timeout
from ._local import Local
from ._tracing import OperationSpan
from .connection import AnyConnector, Connection
from .descriptor import Descriptor, DescriptorList
from .errors import OperationCancelledError, OperationStateError, WaitTimeoutError, from_core

__all__ = ["AbstractOperation", "OperationKind", "OperationStatus"]

_log = logging.getLogger("nixl_connect")
_ENDED = _core.ENDED
_RELEASED = _core.RELEASED

Self = TypeVar("Self", bound="AbstractOperation")


class OperationKind(IntEnum):
    """What the active side does."""

    UNSPECIFIED = 0
    READ = 1
    WRITE = 2

    def __str__(self) -> str:
        return self.name if self else "<invalid>"


class OperationStatus(IntEnum):
    """Only moves forward, and reaches one of the last three values once."""

    UNINITIALIZED = 0
    INITIALIZED = 1
    """Accepted; no byte has been asked for yet, as far as this side knows."""
    IN_PROGRESS = 2
    """The transfer is in flight."""
    COMPLETE = 3
    """Every byte has arrived."""
    CANCELLED = 4
    """Cancelled on this side."""
    ERRORED = 5
    """Failed; `AbstractOperation.wait_for_completion` raises the reason."""

    def __str__(self) -> str:
        return _STATUS_NAMES[self]


_STATUS_NAMES = ("<invalid>", "INIT", "PROC", "DONE", "STOP", "ERR")
_STATUSES = tuple(OperationStatus)


class AbstractOperation(ABC):
    """One transfer, from one side.

    Its memory is registered and kept alive until NIXL has stopped using it, which can be
    after the operation has ended, been cancelled or been garbage-collected.

    As a context manager it cancels itself at the end of the block if it has not ended.

    Thread safety: every member may be used from any thread and any event loop.
    """

    _connection: Connection | None = None
    _span: OperationSpan | None = None

    _connector: AnyConnector
    _core: _core.Connection
    _kind: OperationKind
    _local_desc_list: Local

    @abstractmethod
    def __init__(self) -> None: ...

    @property
    def connection(self) -> Connection:
        """This operation's own connection."""
        if self._connection is None:
            number = int(self._core.name.rpartition("-")[2])
            self._connection = Connection(self._connector, number)
        return self._connection

    @property
    def operation_kind(self) -> OperationKind:
        """What the active side does."""
        return self._kind

    @property
    def status(self) -> OperationStatus:
        """How far it has come. Reading it starts and advances nothing."""
        return _STATUSES[self._core.status]

    @property
    def local_descriptors(self) -> list[Descriptor]:
        """The descriptors on this side."""
        local = self._local_desc_list
        if isinstance(local, list):
            return local
        return list(local) if isinstance(local, DescriptorList) else [local]

    @_asyncio.coroutine_function
    def wait_for_completion(
        self, timeout: SupportsFloat | None = None
    ) -> Coroutine[Any, Any, None]:
        """Wait, without blocking the event loop, until the operation has ended.

        Returns when it is complete, and also when it was cancelled on this side: `status`
        and `results()` say which. Any number of tasks, in any number of event loops, may
        wait. Cancelling a task that waits leaves the operation as it is.

        Parameters
        ----------
        timeout
            Seconds to wait at most; the operation goes on when they have passed. The
            operation's own deadline was set when it was made.

        Raises
        ------
        WaitTimeoutError
            When `timeout` has passed.
        TransferError
            When the operation has failed; the error's type says how.
        """
        if timeout is None and self._span is None:
            return _core.Wait(self, self._core, _ENDED)
        return self._wait_for_completion(timeout)

    async def _wait_for_completion(self, timeout: SupportsFloat | None) -> None:
        core = self._core
        if not core.reached(_ENDED):
            if timeout is not None:
                timeout = check_timeout(timeout)
            if not await _asyncio.wait_for(partial(core.notify, _ENDED), core.forget, timeout):
                raise self._wait_timed_out(timeout)
        self._raise_failure()
        if self._span is not None:
            self._end_span()

    def wait(self, timeout: SupportsFloat | None = None) -> None:
        """As `wait_for_completion`, blocking the calling thread."""
        if timeout is not None:
            timeout = check_timeout(timeout)
        if not self._core.wait(_ENDED, timeout):
            raise self._wait_timed_out(timeout)
        self._raise_failure()
        if self._span is not None:
            self._end_span()

    @property
    def released(self) -> bool:
        """Whether NIXL has released the memory, so that it may be used for something else."""
        return self._core.reached(_RELEASED)

    async def wait_for_release(self, timeout: SupportsFloat | None = None) -> None:
        """Wait, without blocking the event loop, until NIXL has released the memory.

        That is soon after completion. After a cancellation or a failure it may be later: a
        transfer in flight cannot be called back, and an offer that a peer may know of lingers
        (`Connector`'s ``linger``). Reuse blocks of a pool only after the release.
        Raises nothing for how the operation ended.

        Parameters
        ----------
        timeout
            Seconds to wait at most.

        Raises
        ------
        WaitTimeoutError
            When `timeout` has passed.
        """
        if timeout is not None:
            timeout = check_timeout(timeout)
        core = self._core
        if core.reached(_RELEASED):
            return
        if not await _asyncio.wait_for(partial(core.notify, _RELEASED), core.forget, timeout):
            raise WaitTimeoutError(f"{self!r} has not let go of its memory after {timeout} s")

    def cancel(self) -> None:
        """End the operation as cancelled, if it has not ended.

        A transfer in flight cannot be called back: its memory stays pinned until NIXL reports
        that it is done, and the peer is notified whether every byte arrived.
        """
        self._core.cancel()

    def results(self) -> list[Descriptor]:
        """The local descriptors of a complete operation.

        Raises
        ------
        TransferError
            When it is not complete: `OperationStateError` before completion,
            `OperationCancelledError` when it was cancelled, or what made it fail.
        """
        status = self.status
        if status is not OperationStatus.COMPLETE:
            self._raise_failure()
            if status is OperationStatus.CANCELLED:
                raise OperationCancelledError(f"{self!r} was cancelled and has no results")
            raise OperationStateError(f"{self!r} has not completed yet and has no results")
        return self.local_descriptors

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._core.reached(_ENDED):
            self._core.cancel()
        if self._span is not None:
            self._end_span()

    async def __aenter__(self: Self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc_value, traceback)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} belongs to this process and cannot be copied or sent: "
            "send what an offer's metadata() or wire() returns"
        )

    def __repr__(self) -> str:
        local = self._local_desc_list
        what = repr(local) if isinstance(local, Descriptor) else f"{len(local)} descriptors"
        return f"{type(self).__name__}({self._core.name!r}, {what}, status={self.status})"

    def _wait_timed_out(self, timeout: float | None) -> WaitTimeoutError:
        return WaitTimeoutError(f"{self!r} has not ended after {timeout} s; it goes on")

    def _raise_failure(self) -> None:
        failure = self._core.failure
        if failure is not None:
            error = from_core(*failure)
            if self._span is not None:
                self._end_span(error)
            _log.debug("%s", error, extra=self._log_fields(failure[0]))
            raise error

    def _log_fields(self, reason: str) -> dict[str, str]:
        core = self._core
        return {
            "connector": self._connector.name,
            "operation": core.name,
            "kind": type(self).__name__,
            "peer": core.remote_name,
            "reason": reason,
        }

    def _end_span(self, failure: Exception | None = None) -> None:
        assert self._span is not None
        self._span.end(self.status.name.lower(), failure)
