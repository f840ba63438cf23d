"""A job: one task on the asyncio pool, from Celery's call to the last of its callbacks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from billiard.einfo import ExceptionInfo
from celery.exceptions import SoftTimeLimitExceeded

from snakepit_bridge.loop import run_blocking
from workers.pool.greenlets import GreenletBridge
from workers.pool.interrupts import Interruptible, SoftLimitReached
from workers.pool.stacks import owned_by

_log = logging.getLogger(__name__)
_bridge = GreenletBridge()


@dataclass(frozen=True, slots=True)
class Order:
    """What Celery hands to a pool: what to call, and whom to tell.

    Attributes:
        target: Celery's tracer, with its arguments.
        accepted: told the job's number and the monotonic time when it begins.
        done: told what the tracer returned.
        failed: told of an error that the tracer let through.
        timed_out: told whether the limit was the soft one, and its seconds.
        soft_s: seconds after which the task gets ``SoftTimeLimitExceeded``.
        hard_s: seconds after which it is ended.
    """

    target: Callable[..., Any]
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] | None = None
    accepted: Callable[[int, float], Any] | None = None
    done: Callable[[Any], Any] | None = None
    failed: Callable[[ExceptionInfo], Any] | None = None
    timed_out: Callable[[bool, float | None], Any] | None = None
    soft_s: float | None = None
    hard_s: float | None = None


class Job:
    """One order being carried out. All but ``execute`` happens on the home loop.

    Attributes:
        number: what Celery calls its process id; unique in this process.
        awaits: whether its task is a coroutine, which can be interrupted where it waits.
        ended: whether it was terminated or ran into its hard limit, so that Celery hears no more of it.
        task: the asyncio task that runs it, once it runs on the loop.
        timers: those of its limits.
    """

    def __init__(self, number: int, order: Order, awaits: bool, terminate: Callable[[Job], None]) -> None:
        self.number = number
        self.order = order
        self.awaits = awaits
        self.ended = False
        self.task: asyncio.Task[None] | None = None
        self.timers: list[asyncio.TimerHandle] = []
        self._terminate = terminate
        self._in_body = False
        self._through = False
        self._soft_due = False

    def terminate(self, signal: int | None = None) -> None:
        """Ends the job; Celery calls it on the handle that it keeps, from any thread."""
        self._terminate(self)

    def execute(self) -> None:
        """Carries the order out and tells Celery; in the job's greenlet, or in a thread of its own."""
        with owned_by(self):
            try:
                self._execute()
            except Exception:  # noqa: BLE001 (a callback's, and nobody is left to be told)
                _log.exception("Celery's callback for job %d failed", self.number)

    def _execute(self) -> None:
        order = self.order
        if order.accepted is not None:
            order.accepted(self.number, time.monotonic())
        if self.ended:
            return  # revoked while it waited for its turn
        try:
            outcome = order.target(*order.args, **(order.kwargs or {}))
        except BaseException as error:  # noqa: BLE001 (it must end neither the loop nor the thread)
            if self.ended:
                return
            if not isinstance(error, Exception):
                _log.error("Job %d let through %r", self.number, error)
            if order.failed is not None:
                order.failed(ExceptionInfo())
        else:
            if order.done is not None and not self.ended:
                order.done(outcome)

    def run_body(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs the coroutine of the job's task; only within it the job can be interrupted.

        Raises:
            SoftTimeLimitExceeded: the soft limit was reached, and the coroutine let that through.
            asyncio.CancelledError: the job was ended.
            concurrent.futures.CancelledError: the coroutine was cancelled by something of its own.
            RuntimeError: it tried to end the process.
        """
        if self.ended:
            work.close()
            raise asyncio.CancelledError
        if not _bridge.inside():
            return run_blocking(work)
        self._in_body = True
        try:
            return _bridge.wait(self._interruptible(work) if self.order.soft_s else work)
        except SoftLimitReached as reached:
            raise SoftTimeLimitExceeded(*reached.args) from None
        except asyncio.CancelledError as cancelled:
            if self.ended:
                raise
            raise concurrent.futures.CancelledError(
                "The task's coroutine was cancelled by its own doing."
            ) from cancelled
        except (SystemExit, KeyboardInterrupt) as left:
            raise RuntimeError(f"The task tried to end its worker: {left!r}") from left
        finally:
            self._in_body, self._through = False, True

    async def _interruptible(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await Interruptible(work, self._instead)

    def _instead(self, cancelled: asyncio.CancelledError) -> BaseException:
        if not self._soft_due or self.ended:
            return cancelled
        self._soft_due = False
        if self.task is not None:
            self.task.uncancel()
        return SoftLimitReached(self.order.soft_s)

    def remind(self) -> bool:
        """Throws the soft limit's error into the coroutine; tells whether there was one to throw it into."""
        if not self._in_body or self.ended or self.task is None:
            return False
        self._soft_due = True
        self.task.cancel()
        return True

    def end(self) -> bool:
        """Marks the job as ended; False if its task is through, and only its result is on its way to Celery."""
        if self._through:
            return False
        self.ended = True
        if self._in_body and self.task is not None:
            self.task.cancel()
        return True
