"""Greenlets that run Celery's synchronous code on the event loop without blocking it: they switch out to wait."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, TypeVar, cast

from greenlet import GreenletExit, getcurrent, greenlet

from workers.pool.tracebacks import detach_error

T = TypeVar("T")


class _WaitingGreenlet(greenlet):
    """A greenlet whose parent awaits the coroutines that it passes out.

    Attributes:
        abandoned: whether nothing awaits it any more, so that it can only unwind: its coroutine was closed, or it is
            being garbage-collected, in a greenlet that isn't its parent.
    """

    abandoned = False


class GreenletBridge:
    """The home loop's bridge for code that :func:`run_in_greenlet` runs."""

    def can_switch_out(self) -> bool:
        """Check whether the calling code runs in such a greenlet, which can be switched out."""
        return isinstance(getcurrent(), _WaitingGreenlet)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Have this greenlet's awaiter await the coroutine, and return its result or raise its error.

        Raises:
            GreenletExit: the greenlet was abandoned.
        """
        if _current_greenlet().abandoned:
            work.close()
            raise GreenletExit
        try:
            # No frame of a greenlet may reference the greenlet itself: such a cycle is never collected.
            return cast("greenlet", _current_greenlet().parent).switch(work)
        except GreenletExit:
            _current_greenlet().abandoned = True
            raise


def _current_greenlet() -> _WaitingGreenlet:
    return cast("_WaitingGreenlet", getcurrent())


class _ClosableAwaitable:
    """Awaits a coroutine, and stops at once if it is closed while it waits.

    A coroutine that keeps waiting, such as in a ``finally``, would run the greenlet from where it was closed.
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
    """Run a function in a greenlet and return its result; while it waits, this coroutine waits.

    Both share one context, so that a context variable set on either side is seen on the other. Errors cross as copies
    that reference no frame of a coroutine (see :mod:`workers.pool.tracebacks`).
    """
    running = _WaitingGreenlet(function)
    running.gr_context = getcurrent().gr_context
    handed = running.switch()
    while not running.dead:
        try:
            answer = await _ClosableAwaitable(handed)
        except GeneratorExit:
            # This coroutine is being closed, in an arbitrary greenlet, from which the other one must not run.
            running.abandoned = True
            raise
        except BaseException as exc:  # noqa: BLE001 (whatever it is, it is raised in the code that waits)
            error = detach_error(exc)
            handed = running.throw(type(error), error, error.__traceback__)
        else:
            handed = running.switch(answer)
    return handed
