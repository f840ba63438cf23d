"""Waiting on conditions, so that no test sleeps for a guessed time or hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], description: str, *, timeout_s: float = 15.0, poll_s: float = 0.02) -> T:
    """Returns the predicate's first true answer.

    Raises:
        AssertionError: it was not true within ``timeout_s`` seconds; the text says what was waited for and last seen.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"Waited {timeout_s:g} s in vain for {description}; last seen: {answer!r}")
        time.sleep(poll_s)


async def eventually(
    predicate: Callable[[], Awaitable[T]], description: str, *, timeout_s: float = 15.0, poll_s: float = 0.01
) -> T:
    """Returns a coroutine function's first true answer; ``wait_until`` for code that runs on the loop."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = await predicate()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"Waited {timeout_s:g} s in vain for {description}; last seen: {answer!r}")
        await asyncio.sleep(poll_s)
