"""The owner's side of backends whose mover asks for a slot over a socket: nothing is registered,
and an offer has ended when its slot has been sent."""

from __future__ import annotations

import asyncio


class Offer:
    def __init__(self, slot: int) -> None:
        self.message = {"slot": slot}
        self._ended = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        self._ended.set_result(None)

    async def ended(self) -> None:
        await self._ended

    def release(self) -> None:
        """Nothing was registered."""
