"""Random histories: operations of every kind, from threads and event loops, with cancels,
deadlines, dropped objects and closed connectors. Whatever happens, each wait ends, each end is
one that the history allows, and every byte of what is complete is right."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

import nixl_connect as nc
import numpy as np
import uvloop
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule

Status = nc.OperationStatus
PATIENCE = 60


class Loop:
    """An event loop on a thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.thread = threading.Thread(target=loop.run_forever, daemon=True)
        self.thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        self.loop.close()


class Move:
    """One passive operation, what was offered, and whoever acts on it."""

    def __init__(self, kind: str, size: int, seed: int) -> None:
        self.kind = kind
        self.full = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
        self.empty = np.zeros(size, dtype=np.uint8)
        self.passive: nc.PassiveOperation | None = None
        self.metadata: nc.RdmaMetadata | None = None
        self.active: nc.ActiveOperation | None = None
        self.disturbed = False

    def offered(self) -> nc.Descriptor:
        return nc.Descriptor(self.full if self.kind == "read" else self.empty)

    def local(self) -> nc.Descriptor:
        return nc.Descriptor(self.empty if self.kind == "read" else self.full)

    def check(self) -> None:
        if self.active is not None and self.active.status is Status.COMPLETE:
            assert np.array_equal(self.full, self.empty)


class Histories(RuleBasedStateMachine):
    moves = Bundle("moves")
    begun = Bundle("begun")

    @initialize()
    def start(self) -> None:
        self.loops = [Loop(asyncio.new_event_loop()), Loop(uvloop.new_event_loop())]
        self.connectors = [nc.Connector(f"worker{i}", linger=0.05) for i in range(2)]
        self.all: list[Move] = []
        self.waits: list[Future[Any]] = []
        self.closed: list[nc.Connector] = []

    def call(self, where: int, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loops[where].submit(coroutine).result(PATIENCE)

    @rule(
        target=moves,
        kind=st.sampled_from(["read", "write"]),
        size=st.integers(1, 100_000),
        where=st.integers(-1, 1),
        owner=st.integers(0, 1),
        timeout=st.sampled_from([30.0, 30.0, 30.0, 0.0, 0.005, None]),
    )
    def offer(self, kind: str, size: int, where: int, owner: int, timeout: float | None) -> Move:
        move = Move(kind, size, len(self.all))
        connector = self.connectors[owner]
        name = "create_readable" if kind == "read" else "create_writable"
        try:
            if where < 0:
                create = getattr(connector, name + "_blocking")
                move.passive = create(move.offered(), timeout=timeout)
            else:
                create = getattr(connector, name)
                move.passive = self.call(where, create(move.offered(), timeout=timeout))
            move.metadata = move.passive.metadata()
        except nc.DeadlineExceededError:
            assert timeout is not None
            assert timeout < 1
        move.disturbed = timeout is not None and timeout < 1
        self.all.append(move)
        return move

    @rule(
        target=begun,
        move=consumes(moves),
        where=st.integers(-1, 1),
        mover=st.integers(0, 1),
        timeout=st.sampled_from([30.0, 30.0, 30.0, 0.0, 0.005]),
    )
    def begin(self, move: Move, where: int, mover: int, timeout: float) -> Move:
        if move.metadata is None:
            return move
        connector = self.connectors[mover]
        arguments: tuple[Any, Any] = (move.metadata, move.local())
        name = "begin_read"
        if move.kind == "write":
            arguments, name = arguments[::-1], "begin_write"
        if where < 0:
            begin = getattr(connector, name + "_blocking")
            move.active = begin(*arguments, timeout=timeout)
        else:
            move.active = self.call(where, getattr(connector, name)(*arguments, timeout=timeout))
        move.disturbed = move.disturbed or timeout < 1
        return move

    @rule(move=begun, where=st.integers(0, 1))
    def wait(self, move: Move, where: int) -> None:
        for operation in (move.passive, move.active):
            if operation is not None:
                self.waits.append(self.loops[where].submit(operation.wait_for_completion(PATIENCE)))

    @rule(move=begun, where=st.integers(0, 1))
    def give_up_waiting(self, move: Move, where: int) -> None:
        if move.passive is not None:
            future = self.loops[where].submit(move.passive.wait_for_completion(PATIENCE))
            future.cancel()

    @rule(move=begun, side=st.sampled_from(["passive", "active"]))
    def cancel(self, move: Move, side: str) -> None:
        operation = getattr(move, side)
        if operation is not None:
            move.disturbed = True
            operation.cancel()
            assert operation.status >= Status.COMPLETE

    @rule(move=consumes(moves))
    def drop(self, move: Move) -> None:
        move.passive = None
        gc.collect()

    @rule(move=begun)
    def drop_the_active_side(self, move: Move) -> None:
        self.finish(move)
        move.active = None

    @rule(which=st.integers(0, 1))
    def replace_connector(self, which: int) -> None:
        for move in self.all:
            move.disturbed = True
        old = self.connectors[which]
        self.connectors[which] = nc.Connector(old.name, linger=0.05)
        self.closed.append(old)
        threading.Thread(target=old.close).start()
        old.close()

    def finish(self, move: Move) -> None:
        """The move's operations end, as what was done to them allows."""
        for operation in (move.active, move.passive):
            if operation is None or (operation is move.passive and move.active is None):
                continue
            failure = None
            try:
                operation.wait(PATIENCE)
            except nc.TransferError as error:
                failure = error
            ends = (Status.COMPLETE, Status.CANCELLED) if failure is None else (Status.ERRORED,)
            assert operation.status in ends, repr(failure)
            assert operation.status is Status.COMPLETE or move.disturbed, repr(failure)
        move.check()

    def teardown(self) -> None:
        if not hasattr(self, "loops"):
            return
        for move in self.all:
            self.finish(move)
        for move in self.all:
            if move.passive is not None:
                move.passive.cancel()
        for wait in self.waits:
            error = wait.exception(PATIENCE)
            assert error is None or isinstance(error, nc.TransferError), repr(error)
        self.all.clear()
        gc.collect()
        until = time.monotonic() + PATIENCE
        for connector in self.connectors:
            while True:
                held = connector.stats()
                if not held.waiting + held.in_flight + held.registered_regions:
                    break
                assert time.monotonic() < until, held
                time.sleep(0.01)
            connector.close()
        for loop in self.loops:
            loop.close()


Histories.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestHistories = Histories.TestCase
