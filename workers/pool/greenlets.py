"""Greenlets that wait by being switched out: how Celery's synchronous code runs on the event loop and lets it go on."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from greenlet import getcurrent, greenlet

T = TypeVar("T")


class _Waiting(greenlet):
    """A greenlet whose parent awaits what it hands over."""


class GreenletBridge:
    """The home loop's bridge for code that :func:`in_greenlet` runs."""

    def inside(self) -> bool:
        """Tells whether the calling code runs in such a greenlet."""
        return isinstance(getcurrent(), _Waiting)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Has the coroutine awaited by whoever awaits this greenlet, and returns its result or raises its error."""
        parent = cast("greenlet", getcurrent().parent)
        return parent.switch(work)


async def in_greenlet(function: Callable[[], T]) -> T:
    """Returns what a function returns that may wait across the bridge; its waiting is this coroutine's.

    Both share one context, so that a context variable set on either side is seen on the other.
    """
    running = _Waiting(function)
    running.gr_context = getcurrent().gr_context
    handed = running.switch()
    while not running.dead:
        try:
            answer = await handed
        except BaseException as error:  # noqa: BLE001 (whatever it is, it belongs to the code that waits for it)
            handed = running.throw(type(error), error, error.__traceback__)
        else:
            handed = running.switch(answer)
    return handed
