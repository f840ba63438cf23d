"""Publishing on top of what was read, while others do the same."""

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
    """Returns what ``publish`` returns, which reads and then publishes on top of that; lost races are run again.

    Raises:
        StaleTokenError: others were faster each time, for this long.
    """
    until, pause = time.monotonic() + patience_s, _FIRST_PAUSE_S
    while True:
        try:
            return await publish()
        except StaleTokenError:
            if time.monotonic() >= until:
                raise
        # Without chance in it, those who lost together would lose together again.
        await asyncio.sleep(random.uniform(0, pause))
        pause = min(2 * pause, _LONGEST_PAUSE_S)
