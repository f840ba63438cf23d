"""Throwing an error of one's choice into a coroutine where it waits; asyncio itself only throws cancellations."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded


class SoftLimitReached(SoftTimeLimitExceeded, CancelledError):
    """What a task gets at its soft limit: the error that it knows, and to asyncio's own parts a cancellation.

    As a cancellation, task groups and the like that it passes through end what they have started.
    """


class Interruptible:
    """Awaits a coroutine whose cancellation somebody may turn into another error.

    Args:
        work: the coroutine.
        instead: is given the cancellation that came in, and returns what the coroutine gets to see.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], instead: Callable[[CancelledError], BaseException]) -> None:
        self._work = work
        self._instead = instead

    def __await__(self) -> Generator[Any, Any, Any]:
        error: BaseException | None = None
        while True:
            try:
                waits_for = self._work.send(None) if error is None else self._work.throw(error)
            except StopIteration as done:
                return done.value
            try:
                yield waits_for
                error = None
            except GeneratorExit:
                self._work.close()
                raise
            except CancelledError as cancelled:
                error = self._instead(cancelled)
            except BaseException as other:  # noqa: BLE001 (the coroutine is asked what becomes of it)
                error = other
