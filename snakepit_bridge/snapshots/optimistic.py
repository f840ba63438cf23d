"""Optimistic concurrency: retrying read-modify-publish when others publish at the same time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from snakepit_bridge.exceptions import StaleTokenError
from snakepit_bridge.protocol.token import Token

PATIENCE_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.1


async def retry_on_conflict(publish: Callable[[], Awaitable[Token]], patience_s: float = PATIENCE_S) -> Token:
    """Run a coroutine function that reads and publishes on top of that, and retry it on conflicts.

    Raises:
        StaleTokenError: it still conflicted after ``patience_s`` seconds.
    """
    until, pause_s = time.monotonic() + patience_s, _FIRST_PAUSE_S
    while True:
        try:
            return await publish()
        except StaleTokenError:
            if time.monotonic() >= until:
                raise
        # Full jitter, so that conflicting publishers don't collide again.
        await asyncio.sleep(random.uniform(0, pause_s))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
