"""Leave to newer workers what this one would misread: while a fleet is upgraded, both take from one queue."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from celery.exceptions import Reject

from snakepit_bridge.exceptions import DataFormatError
from snakepit_bridge.protocol.messages import VERSION
from tasks.requests import Delivery

PAUSE_S = 1.0
"""Seconds for which such a message is held before it goes to the end of its queue, so that it doesn't go in circles."""

MAX_AGE_S = 600.0
"""Seconds after which a message that no newer worker has come for fails."""


async def leave_to_newer_workers(version: Any, delivery: Delivery) -> None:
    """Requeue a message of a newer version than this worker reads, unless it has waited for too long already.

    Args:
        version: what the message says.
        delivery: how it came.

    Raises:
        Reject: it goes back to its queue, for another worker.
    """
    if isinstance(version, int) and version > VERSION:
        await _requeue(delivery, f"it has version {version}, and this worker reads {VERSION}")


async def leave_data_to_newer_workers(exc: DataFormatError, delivery: Delivery) -> None:
    """Requeue a message if the fleet's data is of a newer release, unless it has waited for too long already.

    Args:
        exc: what reading the data raised.
        delivery: how the message came.

    Raises:
        Reject: it goes back to its queue, for another worker.
    """
    await _requeue(delivery, f"the fleet's data has format {exc.found}, and this worker reads {exc.known}")


async def _requeue(delivery: Delivery, why: str) -> None:
    if time.time() - delivery.sent_at < MAX_AGE_S:
        await asyncio.sleep(PAUSE_S)
        raise Reject(f"{why}: left to a newer worker", requeue=True)
