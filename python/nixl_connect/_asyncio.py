"""From the core's completion queues to asyncio's futures.

Each event loop has one queue, whose descriptor it watches; the core's thread writes to the
descriptor when the queue becomes non-empty, and the loop takes all that has arrived at once:
`_core.Bridge` sets the futures. Nothing here polls or sleeps, and no thread but the loop's own runs
Python.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from . import _core

__all__ = ["bridge_of", "coroutine_function", "wait_for"]

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

# A bridge holds no reference to its loop, so that both can go.
_bridges: WeakKeyDictionary[asyncio.AbstractEventLoop, _core.Bridge] = WeakKeyDictionary()
_bridges_lock = threading.Lock()


def bridge_of(loop: asyncio.AbstractEventLoop | None) -> _core.Bridge:
    """The running loop's; `_core.Wait` asks for it too."""
    if loop is None:
        raise RuntimeError(
            "expected a running asyncio event loop, got none: trio has nixl_connect.trio, and "
            "threads have wait() and the factories that end in _blocking"
        )
    bridge = _bridges.get(loop)
    if bridge is None:
        bridge = _core.Bridge()
        loop.add_reader(bridge.fileno(), bridge.drain)
        with _bridges_lock:
            # A loop that was closed with something pending is held by that something's future.
            for closed in [known for known in _bridges if known.is_closed()]:
                del _bridges[closed]
            _bridges[loop] = bridge
    return bridge


def _expire(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)


async def wait_for(
    notify: Callable[[_core.CompletionQueue, int], bool],
    forget: Callable[[_core.CompletionQueue, int], None] | None = None,
    timeout: float | None = None,
) -> bool:
    """Wait until the core pushes the token given to `notify`, or for `timeout` seconds.

    Returns whether the token came. `notify` returns False when there is nothing to wait for;
    `forget` takes a notification back that is no longer wanted.
    """
    loop = asyncio._get_running_loop()
    bridge = bridge_of(loop)
    assert loop is not None, "bridge_of has refused that"
    future: asyncio.Future[bool] = loop.create_future()
    token = bridge.add(future)
    timer = None
    try:
        if not notify(bridge.queue, token):
            return True
        if timeout is not None:
            timer = loop.call_later(max(timeout, 0.0), _expire, future)
        return await future
    finally:
        if timer is not None:
            timer.cancel()
        if bridge.remove(token) and forget is not None:
            forget(bridge.queue, token)


def coroutine_function(function: FunctionT) -> FunctionT:
    """Have `inspect.iscoroutinefunction`, and so `unittest.mock`, take it for what it is."""
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    # What asyncio and unittest.mock ask for before; inspect itself cannot be told.
    function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return function
