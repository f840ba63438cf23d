"""Outages of Redis: what a task does in one, and what a process says of it.

A task waits an outage out, so that it costs time and nothing else. A loop that tries again several times a second would
fill the log with one line over and over, so it says once that something can't be done and once that it can be again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.stores.outages import may_pass

T = TypeVar("T")

PATIENCE_S = 600.0
"""For so long a task waits for the store at one step, if its deadline doesn't come first."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0


async def through_outages(
    work: Callable[[], Awaitable[T]], *, deadline: float | None = None, patience_s: float = PATIENCE_S
) -> T:
    """Return what some work on Redis returns; while Redis is away, it is done again and again.

    Args:
        work: it may be done twice, since a lost answer repeats it.
        deadline: Unix time after which nobody wants it any more.
        patience_s: seconds to wait if no deadline comes first.

    Raises:
        StoreUnavailableError: Redis stayed away, or refuses for good.
    """
    until, pause_s = time.monotonic() + patience_s, _FIRST_PAUSE_S
    while True:
        try:
            return await work()
        except StoreUnavailableError as exc:
            late = time.monotonic() >= until or (deadline is not None and time.time() >= deadline)
            if late or not may_pass(exc):
                raise
        await asyncio.sleep(pause_s * random.uniform(0.7, 1.0))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class Outage:
    """One thing that may be impossible for a while.

    Args:
        log: where it is said.
        what: what can't be done then, as the beginning of a sentence.
    """

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log = log
        self._what = what
        self._away = False

    def begun(self, why: object) -> None:
        """Says that it can't be done, unless that was said already."""
        if not self._away:
            self._log.warning("%s: %s", self._what, why)
        self._away = True

    def over(self) -> None:
        """Says that it is done again, if it couldn't be."""
        if self._away:
            self._log.warning("Over: %s", self._what)
        self._away = False
