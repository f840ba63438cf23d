"""Leave to newer workers what this one would misread: while a fleet is upgraded, both take from one queue.

A worker that does so isn't ready, since it runs none of these messages; see :class:`NewerReleaseNotice`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery.exceptions import Reject

from snakepit_bridge.exceptions import DataFormatError
from snakepit_bridge.protocol.messages import VERSION
from tasks.requests import Delivery

PAUSE_S = 1.0
"""Seconds for which such a message is held before it goes to the end of its queue, so that it doesn't go in circles."""

MAX_AGE_S = 600.0
"""Seconds after which a message that no newer worker has come for fails."""

NOTED_S = 30.0
"""Seconds for which a worker isn't ready after it has left a message to newer ones: it may meet the next one."""


class LeftToNewerWorkerError(Reject):
    """A message goes back to its queue, for a worker of a newer release; its reason says why."""


@dataclass(slots=True)
class NewerReleaseNotice:
    """What a worker process last left to newer workers.

    Attributes:
        clock: monotonic seconds.
    """

    clock: Callable[[], float] = time.monotonic
    _why: str = ""
    _at: float = float("-inf")

    def note(self, why: str) -> None:
        """Remember why a message was left to newer workers."""
        self._why, self._at = why, self.clock()

    @property
    def problem(self) -> str:
        """Why this process isn't ready; empty if it has left nothing to newer workers lately."""
        return self._why if self.clock() - self._at < NOTED_S else ""


NEWER_RELEASE = NewerReleaseNotice()
"""What this process last left to newer workers; the main process of a worker that forks knows it of all."""


async def leave_to_newer_workers(version: Any, delivery: Delivery) -> None:
    """Requeue a message of a newer version than this worker reads, unless it has waited for too long already.

    Args:
        version: what the message says.
        delivery: how it came.

    Raises:
        LeftToNewerWorkerError: it goes back to its queue, for another worker.
    """
    if isinstance(version, int) and version > VERSION:
        await _requeue(delivery, f"a message has version {version}, and this worker reads {VERSION}")


async def leave_data_to_newer_workers(exc: DataFormatError, delivery: Delivery) -> None:
    """Requeue a message if the fleet's data is of a newer release, unless it has waited for too long already.

    Args:
        exc: what reading the data raised.
        delivery: how the message came.

    Raises:
        LeftToNewerWorkerError: it goes back to its queue, for another worker.
    """
    await _requeue(delivery, f"the fleet's data has format {exc.found}, and this worker reads {exc.known}")


async def _requeue(delivery: Delivery, why: str) -> None:
    if time.time() - delivery.sent_at < MAX_AGE_S:
        NEWER_RELEASE.note(why)
        await asyncio.sleep(PAUSE_S)
        raise LeftToNewerWorkerError(why, requeue=True)
