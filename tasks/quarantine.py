"""Quarantine for poison messages: run repeat offenders in isolation.

A process that crashes takes down every prediction it runs, and after a few crashes all of them would be dead-lettered
because of one. So a prediction that was lost twice runs beside few other suspects, and after a third loss beside none.
Suspects that exceed the capacity are delayed in the broker, where no crash counts against them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from celery.exceptions import Ignore

from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.metrics import QUARANTINED
from tasks.message_lease import MessageLeases

# By number of deliveries: how many suspects a process runs at a time while one of these is among them.
_SUSPECT_AT, _ISOLATED_AT = 3, 4
_CAPACITY = {_SUSPECT_AT: 16, _ISOLATED_AT: 1}
# Messages prefetched together with a suspect get this long to leave the process before the suspect may crash it.
_SETTLE_S = 0.5
_DELAY_S = (0.5, 1.5)


class Quarantine:
    """The suspects that are running in one process. Lives on the home loop."""

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        self._released = asyncio.Event()

    def admit(
        self, claims: MessageLeases | None, task_id: str, deliveries: int, claim: str
    ) -> AbstractAsyncContextManager[None]:
        """Enter the block at once, except for a suspect that exceeds the capacity: delay that one.

        Args:
            claims: the leases on the broker's messages; None runs every prediction at once, as none can be delayed.
            task_id: the prediction.
            deliveries: how often its message was delivered.
            claim: the delivery tag of its message.

        Raises:
            Ignore: the message was delayed and no longer belongs to this worker.
            StoreUnavailableError: the broker is unavailable.
        """
        if deliveries < _SUSPECT_AT or claims is None or not claim:
            return nullcontext()
        return self._isolate(claims, task_id, deliveries, claim)

    @asynccontextmanager
    async def _isolate(self, claims: MessageLeases, task_id: str, deliveries: int, claim: str) -> AsyncGenerator[None]:
        if not self._has_room(deliveries):
            await claims.delay(claim, time.time() + random.uniform(*_DELAY_S))
            raise Ignore(f"prediction {task_id} is delayed until it can run in isolation from other suspects")
        self._add(task_id, deliveries)
        try:
            await asyncio.sleep(_SETTLE_S)
            yield
        finally:
            self._remove(task_id)

    async def acquire(self, task_id: str, deliveries: int) -> None:
        """Wait in this process until a prediction may run, for brokers that can't delay a message.

        Args:
            task_id: the prediction, or the batch.
            deliveries: how often its message was delivered.
        """
        if deliveries < _SUSPECT_AT:
            return
        while not self._has_room(deliveries):
            self._released.clear()
            await self._released.wait()
        self._add(task_id, deliveries)
        await asyncio.sleep(_SETTLE_S)

    def release(self, task_id: str) -> None:
        """Release the slot of a prediction; do nothing if it holds none."""
        if task_id in self._running:
            self._remove(task_id)
            self._released.set()

    def _add(self, task_id: str, deliveries: int) -> None:
        self._running[task_id] = deliveries
        TELEMETRY.meter.add(QUARANTINED, 1)

    def _remove(self, task_id: str) -> None:
        del self._running[task_id]
        TELEMETRY.meter.add(QUARANTINED, -1)

    def _has_room(self, deliveries: int) -> bool:
        most = min(_CAPACITY[min(each, _ISOLATED_AT)] for each in (deliveries, *self._running.values()))
        return len(self._running) < most
