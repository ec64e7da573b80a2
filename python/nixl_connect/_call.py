"""What a connector's factories return: coroutines that can be entered."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, TypeVar

from ._operation import AbstractOperation

__all__ = ["OperationCall", "OperationT"]

OperationT = TypeVar("OperationT", bound=AbstractOperation)


class OperationCall(Coroutine[Any, Any, OperationT], AbstractAsyncContextManager[OperationT]):
    """What a connector's factories return: a coroutine that can also be entered.

    ``op = await connector.create_readable(d)``, or ``async with connector.create_readable(d)
    as op:``, which cancels the operation at the end of the block if it has not ended.
    """

    __slots__ = ("_coroutine", "_operation")

    def __init__(self, coroutine: Coroutine[Any, Any, OperationT]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, OperationT]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, *args: Any) -> Any:
        return self._coroutine.throw(*args)

    def close(self) -> None:
        self._coroutine.close()

    async def __aenter__(self) -> OperationT:
        self._operation = await self._coroutine
        return self._operation

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._operation.__exit__(exc_type, exc_value, traceback)
