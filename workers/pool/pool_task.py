"""One task on the asyncio pool, from Celery's call to the last of its callbacks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from billiard.einfo import ExceptionInfo
from celery.worker import state
from celery.worker.request import Request
from greenlet import GreenletExit

from snakepit_bridge.process.home_loop import run_blocking
from workers.pool.coroutines import BodyRunner, use_owner
from workers.pool.greenlets import GreenletBridge
from workers.pool.soft_limits import Interruptible, SoftLimitReached

_log = logging.getLogger(__name__)
_bridge = GreenletBridge()


@dataclass(frozen=True, slots=True)
class PoolRequest:
    """What Celery submits to a pool: the target and its callbacks.

    Attributes:
        target: Celery's tracer, with its arguments.
        on_accepted: called with the job's number and the monotonic time when it starts.
        on_done: called with the tracer's result.
        on_failed: called with an error that the tracer let through.
        on_timed_out: called with whether the limit was the soft one, and its seconds.
        soft_s: seconds after which the task gets ``SoftTimeLimitExceeded``.
        hard_s: seconds after which it is cancelled.
    """

    target: Callable[..., Any]
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] | None = None
    on_accepted: Callable[[int, float], Any] | None = None
    on_done: Callable[[Any], Any] | None = None
    on_failed: Callable[[ExceptionInfo], Any] | None = None
    on_timed_out: Callable[[bool, float | None], Any] | None = None
    soft_s: float | None = None
    hard_s: float | None = None


class PoolTask(BodyRunner):
    """One submitted task. All methods but ``execute`` run on the home loop.

    Attributes:
        number: what Celery calls its process id; unique in this process.
        is_coroutine: whether its task is a coroutine, which can be interrupted while it waits.
        ended: whether it was terminated or hit its hard limit, so that Celery isn't notified any more.
        timers: the timers of its limits.
        outcome: the tracer's result, which Celery hasn't been notified of yet.
    """

    def __init__(
        self, number: int, request: PoolRequest, is_coroutine: bool, terminate: Callable[[PoolTask], None]
    ) -> None:
        self.number = number
        self.request = request
        self.is_coroutine = is_coroutine
        self.ended = False
        self.timers: list[asyncio.TimerHandle] = []
        self.outcome: Any = None
        self._terminate = terminate
        self._body: Interruptible | None = None
        self._done = False
        self._started = False
        self._requeued = False

    def requeue(self) -> bool:
        """Requeue the message if the task hasn't started; return whether it was. Called in the worker's main thread."""
        request = getattr(self.request.on_accepted, "__self__", None)
        if self._started or self._requeued or not isinstance(request, Request):
            return False
        self._requeued = True
        if self._started:  # started just now in the other thread: it runs twice, and the first result counts
            return False
        request.reject(requeue=True)
        state.task_ready(request)
        return True

    def terminate(self, signal: int | None = None) -> None:
        """Cancel the job; Celery calls it on the handle, from any thread."""
        self._terminate(self)

    def execute(self) -> None:
        """Run the task, in the job's greenlet or in a thread of its own."""
        with use_owner(self):
            try:
                self._execute()
            except Exception:  # noqa: BLE001 (raised by a callback, with no caller left to handle it)
                _log.exception("Celery's callback for job %d failed", self.number)

    def _execute(self) -> None:
        order, self._started = self.request, True
        if self._requeued:
            return
        if order.on_accepted is not None:
            order.on_accepted(self.number, time.monotonic())
        if self.ended:
            return  # revoked while it was waiting
        try:
            outcome = order.target(*order.args, **(order.kwargs or {}))
        except GreenletExit:
            return  # the greenlet was abandoned and can't notify Celery: see fail_as_closed
        except BaseException as exc:  # noqa: BLE001 (it must stop neither the loop nor the thread)
            if self.ended:
                return
            if not isinstance(exc, Exception):
                _log.error("Job %d let through %r", self.number, exc)
            if order.on_failed is not None:
                order.on_failed(ExceptionInfo())
        else:
            self.outcome = None if self.ended else outcome

    def fail_as_closed(self) -> None:
        """Notify Celery that the job's coroutine was closed from outside, which the job itself can't do any more."""
        if self.ended or self.request.on_failed is None:
            return
        with use_owner(self):
            try:
                raise RuntimeError("The task's coroutine was closed from outside while it waited.")
            except RuntimeError:
                self.request.on_failed(ExceptionInfo())

    def notify(self) -> None:
        """Notify Celery of the outcome, if there is one."""
        if self.outcome is None or self.request.on_done is None:
            return
        try:
            with use_owner(self):
                self.request.on_done(self.outcome)
        except Exception:  # noqa: BLE001 (as above)
            _log.exception("Celery's callback for job %d failed", self.number)

    def run_body(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run the coroutine of the job's task, during which the job can be interrupted.

        Raises:
            SoftTimeLimitExceeded: the soft limit was reached and the coroutine didn't catch it.
            asyncio.CancelledError: the job was cancelled.
            concurrent.futures.CancelledError: the coroutine cancelled itself.
            RuntimeError: the coroutine tried to exit the process.
        """
        if self.ended:
            work.close()
            raise asyncio.CancelledError
        if not _bridge.can_switch_out():
            return run_blocking(work)
        self._body = body = Interruptible(work)
        try:
            return _bridge.wait(body.run())
        except asyncio.CancelledError as cancelled:
            if self.ended:
                raise
            raise concurrent.futures.CancelledError("The task's coroutine cancelled itself.") from cancelled
        finally:
            self._body, self._done = None, True

    def raise_soft_limit(self) -> bool:
        """Throw the soft limit's error into the coroutine; return whether a coroutine was running."""
        if self._body is None or self.ended:
            return False
        self._body.throw(SoftLimitReached(self.request.soft_s))
        return True

    def cancel(self) -> bool:
        """Cancel the job; return False if its task has finished and only its result is on its way to Celery."""
        if self._done:
            return False
        self.ended = True
        if self._body is not None:
            self._body.cancel()
        return True
