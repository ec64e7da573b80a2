"""For trio, which has no asyncio loop: await operations in its own way.

Make operations with the blocking factories, in a thread::

    offer = await trio.to_thread.run_sync(connector.create_readable_blocking, descriptor)
    with offer:
        await nixl_connect.trio.wait_for_completion(offer)

The package itself does not import this module, and so does not import trio. Programs on anyio
need this module only with anyio's trio backend.
"""

from __future__ import annotations

import itertools

import trio

from . import _core
from ._operation import AbstractOperation

__all__ = ["wait_for_completion"]


class _Bridge:
    """One run's completion queue, and the events that wait on it."""

    def __init__(self) -> None:
        self.queue = _core.CompletionQueue()
        self.events: dict[int, trio.Event] = {}
        self.next_token = itertools.count().__next__
        trio.lowlevel.spawn_system_task(self._watch, name="nixl_connect")

    async def _watch(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self.queue.fileno())
            arrived: list[int] = []
            self.queue.drain(arrived)
            for token in arrived:
                # Not every token has one: some say only that there is something to release.
                event = self.events.pop(token, None)
                if event is not None:
                    event.set()


_bridge: trio.lowlevel.RunVar[_Bridge] = trio.lowlevel.RunVar("nixl_connect")


def _current_bridge() -> _Bridge:
    try:
        return _bridge.get()
    except LookupError:
        bridge = _Bridge()
        _bridge.set(bridge)
        return bridge


async def wait_for_completion(operation: AbstractOperation) -> None:
    """As `AbstractOperation.wait_for_completion`, for a task of trio.

    Returns when the operation is complete, and also when it was cancelled on this side:
    `status` and `results()` say which. Any number of tasks, in any number of runs, may wait.
    Always a checkpoint.

    When the surrounding cancel scope is cancelled, as by `trio.fail_after`, the wait ends and
    the operation goes on: wait again, or cancel it with `AbstractOperation.cancel` or by
    leaving its ``with`` block.

    Raises
    ------
    RuntimeError
        When this does not run under trio.
    TransferError
        When the operation has failed; the error's type says how.
    """
    bridge = _current_bridge()
    core = operation._core
    token = bridge.next_token()
    event = bridge.events[token] = trio.Event()
    try:
        if core.notify(_core.ENDED, bridge.queue, token):
            await event.wait()
        else:
            await trio.lowlevel.checkpoint()
    finally:
        if bridge.events.pop(token, None) is not None:
            core.forget(bridge.queue, token)
    operation._raise_failure()
    if operation._span is not None:
        operation._end_span()
