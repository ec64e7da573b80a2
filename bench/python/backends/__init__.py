"""What is measured: a module for each library, in one of three styles.

``asyncio``: `Owner.start`, `Owner.offer`, `Mover.start` and `Mover.fetch` are coroutines.
``spin``: for libraries that are polled; `Owner.offer` and `Mover.begin` start something,
`poll` returns the slots that have ended. ``local``: one process, `copy` does it all.

`Owner.hello` is given to `Mover` once, as JSON; what `offer` returns goes with each operation.
"""
