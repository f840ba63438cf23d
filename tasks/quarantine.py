"""Suspects: predictions that went down with their workers again and again, kept apart so that only one can be at fault.

A process that holds a thousand predictions dies with all of them, by whichever of them it was; after a few deaths all
would be given up for the sake of one. So one that was lost twice runs beside few others like it, and after a third time
alone among them. What doesn't fit is put aside for a moment, out of the process, where no death counts against it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from celery.exceptions import Ignore

from tasks.message_lease import MessageLeases

# By how often it was given out: how many suspects a process runs at a time while one of these is among them.
_SUSPECT_AT, _ISOLATED_AT = 3, 4
_CAPACITY = {_SUSPECT_AT: 16, _ISOLATED_AT: 1}
# What came in the same breath as a suspect has to be out of the process before that one may end it.
_SETTLE_S = 0.5
_DELAY_S = (0.5, 1.5)


class Suspects:
    """The suspects that run in one process. Lives on the home loop."""

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        self._released = asyncio.Event()

    @asynccontextmanager
    async def admit(
        self, claims: MessageLeases | None, task_id: str, deliveries: int, claim: str
    ) -> AsyncGenerator[None]:
        """Lets the block run: at once for what is no suspect, and for one if there is room for it.

        Args:
            claims: the claims on the broker's messages; without them nothing can be put aside, and all run at once.
            task_id: the prediction.
            deliveries: how often it was given out.
            claim: the tag under which the broker lent its message.

        Raises:
            Ignore: it was put aside. Its message is in other hands, and this worker does nothing more about it.
            StoreUnavailableError: the broker is away.
        """
        if deliveries < _SUSPECT_AT or claims is None or not claim:
            yield
            return
        if not self._has_room(deliveries):
            await claims.delay(claim, time.time() + random.uniform(*_DELAY_S))
            raise Ignore(f"prediction {task_id} waits until it can run apart from others that workers died with")
        self._running[task_id] = deliveries
        try:
            await asyncio.sleep(_SETTLE_S)
            yield
        finally:
            del self._running[task_id]

    async def acquire(self, task_id: str, deliveries: int) -> None:
        """Wait until a prediction can run; for a broker with which nothing can be put aside. No death counts meanwhile.

        Args:
            task_id: the prediction, or the batch.
            deliveries: how often it was given out.
        """
        if deliveries < _SUSPECT_AT:
            return
        while not self._has_room(deliveries):
            self._released.clear()
            await self._released.wait()
        self._running[task_id] = deliveries
        await asyncio.sleep(_SETTLE_S)

    def release(self, task_id: str) -> None:
        """Give the place up that a prediction entered; without effect for one that needed none."""
        if self._running.pop(task_id, None) is not None:
            self._released.set()

    def _has_room(self, deliveries: int) -> bool:
        most = min(_CAPACITY[min(each, _ISOLATED_AT)] for each in (deliveries, *self._running.values()))
        return len(self._running) < most
