"""The protocol of claims as a model, of which every order of steps is tried.

A step is one atomic operation, or one message sent, delivered or lost; a claimant may die before
each. Two things must hold in every state: nobody is at memory that its owner has released, and no
more are let in than there are places. And from every state the owner comes to release.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

CLAIMANTS = 2


@dataclass(frozen=True)
class Claimant:
    at: str = "idle"
    """idle, entered (and has not asked), using, over, dead"""
    entry: bool = False
    """What the owner sees of it: an entry in the slot, or a grant that has not been reported back."""


@dataclass(frozen=True)
class State:
    places: int
    open: bool = True
    released: bool = False
    let_in: int = 0
    claimants: tuple[Claimant, ...] = (Claimant(),) * CLAIMANTS
    messages: frozenset[tuple[str, int]] = frozenset()

    def having(self, i: int, claimant: Claimant, **changes: object) -> State:
        claimants = (*self.claimants[:i], claimant, *self.claimants[i + 1 :])
        return replace(self, claimants=claimants, **changes)  # type: ignore[arg-type]


def owner_steps(state: State) -> Iterator[State]:
    if state.open:
        yield replace(state, open=False)
    # It looks, as one step for each entry; an entry that is made meanwhile finds it closed.
    elif not state.released and not any(c.entry for c in state.claimants):
        yield replace(state, released=True)


def table_steps(state: State) -> Iterator[State]:
    """In shared memory: enter, then ask, then end; the owner finds the dead by their process."""
    for i, c in enumerate(state.claimants):
        if c.at == "idle":
            yield state.having(i, Claimant("entered", True))
        elif c.at == "entered":
            if state.open and state.places > 0:
                yield state.having(
                    i, Claimant("using", True), places=state.places - 1, let_in=state.let_in + 1
                )
            else:
                yield state.having(i, Claimant("over"))
        elif c.at == "using":
            yield state.having(i, Claimant("over"))
        if c.at in ("entered", "using"):
            yield state.having(i, Claimant("dead", c.entry))
        if c.at == "dead" and c.entry:
            yield state.having(i, Claimant("dead"))


def message_steps(state: State) -> Iterator[State]:
    """By messages, each of which may be lost; who is silent is dead for the owner."""
    for i, c in enumerate(state.claimants):
        if c.at == "idle":
            yield state.having(
                i, replace(c, at="entered"), messages=state.messages | {("claim", i)}
            )
        elif c.at == "using":
            yield state.having(i, replace(c, at="over"), messages=state.messages | {("ended", i)})
        elif c.at == "entered":
            # Its deadline: what is granted later is given back.
            yield state.having(i, replace(c, at="over"), messages=state.messages | {("ended", i)})
        if c.at in ("entered", "using"):
            yield state.having(i, replace(c, at="dead"))
        if c.at in ("dead", "over") and c.entry:
            # It says no more that its transfer goes on.
            yield state.having(i, replace(c, entry=False))
    for what, i in state.messages:
        c = state.claimants[i]
        lost = replace(state, messages=state.messages - {(what, i)})
        yield lost
        if what == "claim":
            if state.open and state.places > 0:
                yield lost.having(
                    i,
                    replace(c, entry=True),
                    places=state.places - 1,
                    messages=lost.messages | {("granted", i)},
                )
        elif what == "granted" and c.at == "entered":
            yield lost.having(i, replace(c, at="using"), let_in=state.let_in + 1)
        elif what == "ended":
            yield lost.having(i, replace(c, entry=False))


def wrong_order_steps(state: State) -> Iterator[State]:
    """A claimant that asks before it enters: what the model must find wrong."""
    for i, c in enumerate(state.claimants):
        if c.at == "idle" and state.open and state.places > 0:
            yield state.having(i, Claimant("asked"), places=state.places - 1)
        elif c.at == "asked":
            yield state.having(i, Claimant("using", True), let_in=state.let_in + 1)
        elif c.at == "using":
            yield state.having(i, Claimant("over"))


def explore(steps: object, places: int) -> tuple[int, list[State]]:
    """How many states there are, and those that are wrong."""
    first = State(places)
    after: dict[State, list[State]] = {}
    before: dict[State, list[State]] = {first: []}
    new = [first]
    while new:
        state = new.pop()
        after[state] = [*owner_steps(state), *steps(state)]  # type: ignore[operator]
        for following in after[state]:
            if following not in before:
                before[following] = []
                new.append(following)
            before[following].append(state)
    wrong = [
        state
        for state in after
        if state.let_in > places
        or (state.released and any(c.at == "using" for c in state.claimants))
    ]
    # Whence the release can be reached.
    ends = {state for state in after if state.released}
    new = list(ends)
    while new:
        for state in before[new.pop()]:
            if state not in ends:
                ends.add(state)
                new.append(state)
    return len(after), wrong + [state for state in after if state not in ends]


@pytest.mark.parametrize("places", [1, 2])
@pytest.mark.parametrize("steps", [table_steps, message_steps])
def test_no_order_of_steps_losses_and_deaths_breaks_it(steps: object, places: int) -> None:
    states, wrong = explore(steps, places)
    assert states > 100
    assert wrong == []


def test_the_model_finds_what_is_wrong() -> None:
    _, wrong = explore(wrong_order_steps, 1)
    assert wrong
