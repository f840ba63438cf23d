"""Soft time limits: throwing an error into a waiting coroutine, where asyncio itself only throws cancellations."""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections.abc import Coroutine, Generator
from threading import current_thread, main_thread
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded
from greenlet import GreenletExit

from snakepit_bridge.exceptions import error_text
from snakepit_bridge.process.home_loop import get_home_loop, run_blocking


class SoftLimitReached(SoftTimeLimitExceeded, CancelledError):
    """Raised in a task at its soft limit: Celery's error, and at the same time a cancellation.

    As a cancellation, it makes the task groups that it passes through cancel what they have started.
    """


class Interruptible:
    """A coroutine that can be interrupted by another one on the same event loop."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self._work = work
        self._task: asyncio.Task[Any] | None = None
        self._error: BaseException | None = None

    async def run(self) -> Any:
        """Run the coroutine and return its result.

        Raises:
            SoftTimeLimitExceeded: it didn't catch its soft limit; outside, that is no cancellation.
            RuntimeError: it tried to exit the process, which would stop the loop for all tasks.
        """
        self._task = asyncio.current_task()
        try:
            return await self
        except SoftLimitReached as reached:
            raise SoftTimeLimitExceeded(*reached.args) from None
        except (SystemExit, KeyboardInterrupt, GreenletExit) as exc:
            raise RuntimeError(f"The task tried to end its worker by {type(exc).__name__}: {error_text(exc)}") from exc

    def throw(self, error: BaseException) -> None:
        """Throw an error into the coroutine where it waits."""
        if self._task is not None:
            self._error = error
            self._task.cancel()

    def cancel(self) -> None:
        """Cancel the coroutine, dropping an error that is still to be thrown."""
        self._error = None
        if self._task is not None:
            self._task.cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        error: BaseException | None = None
        while True:
            try:
                waits_for = self._work.send(None) if error is None else self._work.throw(error)
            except StopIteration as done:
                return done.value
            except GeneratorExit as exc:
                raise RuntimeError("The task raised GeneratorExit, which ends coroutines and no task.") from exc
            try:
                yield waits_for
                error = None
            except GeneratorExit:
                self._work.close()
                raise
            except BaseException as thrown:  # noqa: BLE001 (asyncio throws in what the coroutine waits for has raised)
                error = self._replace_cancellation(thrown)

    def _replace_cancellation(self, thrown: BaseException) -> BaseException:
        if self._error is None or self._task is None or not isinstance(thrown, CancelledError):
            return thrown
        error, self._error = self._error, None
        self._task.uncancel()
        return error


def run_interruptibly(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the home loop for a thread; in prefork, a soft limit interrupts the main thread.

    Raises:
        SoftTimeLimitExceeded: the coroutine was interrupted and didn't catch it.
        RuntimeError: it tried to exit the process.
    """
    body = Interruptible(work)
    if current_thread() is not main_thread() or asyncio._get_running_loop() is not None:
        return run_blocking(body.run())
    future = asyncio.run_coroutine_threadsafe(body.run(), get_home_loop())
    while True:
        try:
            return future.result()
        except SoftTimeLimitExceeded as reached:
            if future.done():
                raise
            get_home_loop().call_soon_threadsafe(body.throw, SoftLimitReached(*reached.args))
        except BaseException:
            future.cancel()
            raise
