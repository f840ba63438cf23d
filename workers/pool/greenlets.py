"""Greenlets that wait by being switched out: how Celery's synchronous code runs on the event loop and lets it go on."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, TypeVar, cast

from greenlet import GreenletExit, getcurrent, greenlet

from workers.pool.tracebacks import detach_error

T = TypeVar("T")


class _WaitingGreenlet(greenlet):
    """A greenlet whose parent awaits what it hands over.

    Attributes:
        left: whether nobody awaits it any more, so that it can only unwind: its coroutine was closed, or it is being
            collected as garbage, and whichever greenlet that happens in is no parent of its.
    """

    abandoned = False


class GreenletBridge:
    """The home loop's bridge for code that :func:`run_in_greenlet` runs."""

    def inside(self) -> bool:
        """Tells whether the calling code runs in such a greenlet."""
        return isinstance(getcurrent(), _WaitingGreenlet)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Has the coroutine awaited by whoever awaits this greenlet, and returns its result or raises its error.

        Raises:
            GreenletExit: nobody awaits this greenlet any more.
        """
        if _current_greenlet().abandoned:
            work.close()
            raise GreenletExit
        try:
            # No frame of a greenlet may hold that greenlet itself: such a circle is never collected.
            return cast("greenlet", _current_greenlet().parent).switch(work)
        except GreenletExit:
            _current_greenlet().abandoned = True
            raise


def _current_greenlet() -> _WaitingGreenlet:
    return cast("_WaitingGreenlet", getcurrent())


class _ClosableAwaitable:
    """A coroutine to await that, when it is closed where it waits, is left there and then, whatever it makes of that.

    One that goes on waiting, such as in a ``finally``, would have the greenlet run from where it was closed.
    """

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self._work = work

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
                with suppress(Exception):
                    self._work.close()
                raise
            except BaseException as exc:  # noqa: BLE001 (asyncio throws in what the coroutine waits for has raised)
                error = exc


async def run_in_greenlet(function: Callable[[], T]) -> T:
    """Returns what a function returns that may wait across the bridge; its waiting is this coroutine's.

    Both share one context, so that a context variable set on either side is seen on the other. An error crosses as one
    that leads into no frame of a coroutine (see :mod:`workers.pool.tracebacks`).
    """
    running = _WaitingGreenlet(function)
    running.gr_context = getcurrent().gr_context
    handed = running.switch()
    while not running.dead:
        try:
            answer = await _ClosableAwaitable(handed)
        except GeneratorExit:
            # This coroutine is being closed, in whatever greenlet that happens: no place to run the other one from.
            running.abandoned = True
            raise
        except BaseException as exc:  # noqa: BLE001 (whatever it is, it belongs to the code that waits for it)
            error = detach_error(exc)
            handed = running.throw(type(error), error, error.__traceback__)
        else:
            handed = running.switch(answer)
    return handed
