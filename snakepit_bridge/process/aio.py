"""Periodic work, waits and background tasks on an event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from snakepit_bridge.exceptions import StoreUnavailableError

T = TypeVar("T")


@dataclass(slots=True)
class Round:
    """One try of an operation.

    Attributes:
        was_idle: whether there was nothing to do, which doesn't tell that the operation works.
    """

    was_idle: bool = False


class OutageLog:
    """Logs the start and the end of an outage of one operation once each, instead of on every retry.

    Args:
        log: the logger.
        what: what fails during the outage, as the beginning of a sentence.
        expected: the errors of an outage.

    Attributes:
        is_down: whether the operation has failed and doesn't work again.
    """

    def __init__(self, log: logging.Logger, what: str, *, expected: type[Exception] = StoreUnavailableError) -> None:
        self._log = log
        self._what = what
        self._expected = expected
        self.is_down = False
        self._unexpected = ""

    def failed(self, why: object) -> None:
        """Log that the operation failed, unless that is logged already."""
        if not self.is_down:
            self._log.warning("%s: %s", self._what, why)
        self.is_down = True

    def recovered(self) -> None:
        """Log that the operation works again, if it had failed."""
        if self.is_down:
            self._log.warning("Recovered: %s", self._what)
        self.is_down = False

    @contextmanager
    def survive(self) -> Generator[Round]:
        """Log the errors of the block instead of raising them, each until it changes or the operation works again.

        An outage is logged by its message, any other error with its traceback.
        """
        this = Round()
        try:
            yield this
        except self._expected as exc:
            self.failed(exc)
        except Exception as exc:  # noqa: BLE001 (one failed round must not end a loop)
            if (unexpected := f"{type(exc).__name__}: {exc}") != self._unexpected:
                self._log.exception("%s; retrying", self._what)
            self._unexpected = unexpected
        else:
            if not this.was_idle:
                self._unexpected = ""
                self.recovered()


async def every(
    interval_s: float,
    work: Callable[[], Awaitable[object]],
    outage: OutageLog,
    *,
    wake_up: asyncio.Event | None = None,
    at_once: bool = True,
) -> None:
    """Await some work again and again until cancelled; its errors are logged and don't end the loop.

    Args:
        interval_s: seconds from the end of one round to the next.
        work: one round.
        outage: the log of rounds that fail.
        wake_up: begins the next round early when it is set.
        at_once: begin with a round; otherwise with a pause.
    """
    wake_up = wake_up or asyncio.Event()
    if not at_once:
        await wait_for_event(wake_up, interval_s)
    while True:
        wake_up.clear()
        with outage.survive() as this:
            this.was_idle = await work() is False
        await wait_for_event(wake_up, interval_s)


async def wait_for_event(event: asyncio.Event, timeout_s: float | None) -> bool:
    """Wait until an event is set, for at most ``timeout_s`` seconds; return whether it is set."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
    return event.is_set()


async def cancel_tasks(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait until they have ended; their errors are dropped."""
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def run_together(*work: Coroutine[Any, Any, object]) -> None:
    """Run coroutines at once until all have ended, or the first fails: the others are cancelled then.

    ``asyncio.TaskGroup`` does the same, but loses a cancellation that comes while a failed coroutine's fellows end
    (until Python 3.13): who cancels it and waits for its end, waits for ever.

    Raises:
        the error of the first that failed.
    """
    tasks = [asyncio.get_running_loop().create_task(each) for each in work]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in ended:
            task.result()
    finally:
        await cancel_tasks(*tasks)


class BackgroundTasks:
    """Tasks that nobody has to await. They are kept until they end, since an event loop refers to its tasks weakly."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine on the running loop, and return its task."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def wait(self) -> None:
        """Wait until all tasks have ended; their errors are dropped."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cancel(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        await cancel_tasks(*self._tasks)
