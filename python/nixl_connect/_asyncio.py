"""From the core's completion queues to asyncio's futures.

Each event loop has one queue, whose descriptor it watches; the core's thread writes to the
descriptor when the queue becomes non-empty, and the loop takes all that has arrived at once.
Nothing here polls or sleeps, and no thread but the loop's own runs Python.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import weakref
from collections.abc import Callable
from weakref import WeakKeyDictionary

from . import _core

__all__ = ["wait_for"]


class _Bridge:
    """One event loop's completion queue, and the futures that wait on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.queue = _core.CompletionQueue()
        self.futures: dict[int, asyncio.Future[bool]] = {}
        self.arrived: list[int] = []
        self.next_token = itertools.count().__next__
        loop.add_reader(self.queue.fileno(), self._drain)

    def _drain(self) -> None:
        # A signal's handler may raise between any two steps. All of them are done again then, when
        # the loop runs: no step loses a token, and each may be done twice.
        arrived, futures = self.arrived, self.futures
        try:
            self.queue.drain(arrived)
            for token in arrived:
                # Not every token has one: some say only that there is something to release.
                future = futures.get(token)
                if future is not None and not future.done():
                    future.set_result(True)
                futures.pop(token, None)
            arrived.clear()
        finally:
            if arrived:
                self.queue.push(arrived[0])


# A bridge holds no reference to its loop, so that both can go.
_bridges: WeakKeyDictionary[asyncio.AbstractEventLoop, _Bridge] = WeakKeyDictionary()
_bridges_lock = threading.Lock()


class _Latest(threading.local):
    """The loop that this thread asked for last, and its bridge: mostly the only one."""

    loop: Callable[[], asyncio.AbstractEventLoop | None] = staticmethod(lambda: None)
    bridge: Callable[[], _Bridge | None] = staticmethod(lambda: None)


_latest = _Latest()


def _bridge_of(loop: asyncio.AbstractEventLoop) -> _Bridge:
    if _latest.loop() is loop and (latest := _latest.bridge()) is not None:
        return latest
    bridge = _bridges.get(loop)
    if bridge is None:
        bridge = _Bridge(loop)
        with _bridges_lock:
            # A loop that was closed with something pending is held by that something's future.
            for closed in [known for known in _bridges if known.is_closed()]:
                del _bridges[closed]
            _bridges[loop] = bridge
    _latest.loop = weakref.ref(loop)
    _latest.bridge = weakref.ref(bridge)
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
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "expected a running asyncio event loop, got none: trio has nixl_connect.trio, and "
            "threads have wait() and the factories that end in _blocking"
        ) from None
    bridge = _bridge_of(loop)
    token = bridge.next_token()
    future: asyncio.Future[bool] = loop.create_future()
    bridge.futures[token] = future
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
        if bridge.futures.pop(token, None) is not None and forget is not None:
            forget(bridge.queue, token)
