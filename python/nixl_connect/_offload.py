"""Work that would hold an event loop, on a thread of its own: on long lists, and closing.

Not on the loop's default executor: that is the program's, which may have given it a single thread,
or all of them something to wait for.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["offload"]

T = TypeVar("T")


async def offload(work: Callable[[], T], discard: Callable[[T], object] | None = None) -> T:
    """What `work` returns, which is called on a thread, in this context.

    `discard` gets what nobody waits for any more, because this was cancelled meanwhile or the loop
    closed; on any thread. Without an event loop of asyncio the work is done at once.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return work()
    done: Future[T] = Future()
    waiter: asyncio.Future[None] = loop.create_future()

    def forget(result: T) -> None:
        if discard is not None:
            discard(result)

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            if done.set_running_or_notify_cancel():
                done.set_exception(error)
        else:
            if done.set_running_or_notify_cancel():
                done.set_result(result)
            else:
                forget(result)
        if done.cancelled():
            return
        try:
            loop.call_soon_threadsafe(wake)
        except RuntimeError:  # The loop is closed.
            if done.exception() is None:
                forget(done.result())

    context = contextvars.copy_context()
    name = "nixl_connect-offload"
    try:
        threading.Thread(target=context.run, args=(run,), name=name, daemon=True).start()
    except RuntimeError:  # There are too many, or the interpreter is ending.
        return work()
    try:
        await waiter
    except BaseException:
        if not done.cancel() and done.exception() is None:
            forget(done.result())
        raise
    return done.result()
