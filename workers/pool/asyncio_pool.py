"""Celery's pool interface: tasks are submitted from the worker's main thread and run on the home loop.

The two threads share flags and a deque that one appends to and the other empties. Everything else belongs to the loop,
so no lock is needed.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import count
from typing import Any

from celery.concurrency.base import BasePool

from snakepit_bridge.process.garbage_collection import PeriodicCollector, scale_gc_threshold
from snakepit_bridge.process.home_loop import get_home_loop, set_bridge
from snakepit_bridge.process.threads import Threads
from workers.pool.coroutines import is_coroutine_task
from workers.pool.greenlets import GreenletBridge, run_in_greenlet
from workers.pool.pool_task import PoolRequest, PoolTask
from workers.watchdog.pulse import PULSE

# Celery's callbacks are batched for this long: each wakes the worker's main thread, which costs more than the callback.
_NOTIFY_DELAY_S = 0.003
# A cancelled job that still runs after this long has suppressed its cancellation: its slot is released.
_GRACE_S = 2.0
_CHECK_INTERVAL_S = 0.5
# Without settings: seconds after which a blocked loop's tasks are requeued.
_DEFAULT_LEASE_S = 5.0

_log = logging.getLogger(__name__)


class AsyncioPool(BasePool):
    """Celery's pool interface over the process's event loop: ``--pool custom``."""

    body_can_be_buffer = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limit: int = self.limit or 1
        self._numbers = count(1)
        self._submitted: deque[PoolTask] = deque()
        self._woken = False
        self._open = True
        self._waiting: deque[PoolTask] = deque()
        self._running: dict[int, PoolTask] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds them weakly
        self._done: list[PoolTask] = []
        self._notifications: set[asyncio.Task[None]] = set()
        self._threads = Threads("dspex-task")
        self._drained = threading.Event()
        self._stalled_checks = 0
        self._collector = PeriodicCollector()

    # ---------------------------------------------------------------- called by Celery, in the worker's main thread

    def on_start(self) -> None:
        self._loop = get_home_loop()
        self._context = contextvars.copy_context()
        set_bridge(GreenletBridge())
        scale_gc_threshold(self.limit)

    def on_apply(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        target: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        timeout_callback: Callable[..., Any] | None = None,
        error_callback: Callable[..., Any] | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> PoolTask:
        """Submit a task and return its handle, which Celery references weakly."""
        soft, hard = soft_timeout or self.options.get("soft_timeout"), timeout or self.options.get("timeout")
        order = PoolRequest(
            target, args or (), kwargs, accept_callback, callback, error_callback, timeout_callback, soft, hard
        )
        job = PoolTask(next(self._numbers), order, self._is_coroutine(order), self._schedule_cancel)
        if not self._open:
            return job  # its message stays unacknowledged and is redelivered
        self._submitted.append(job)
        if not self._woken:
            # One wake-up serves all tasks that are submitted until the loop runs it.
            self._woken = True
            self._loop.call_soon_threadsafe(self._accept_submitted)
        return job

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Cancel the job with this number."""
        self._loop.call_soon_threadsafe(self._cancel_number, pid)

    def grow(self, n: int = 1) -> None:
        """Raise the concurrency by ``n``."""
        self._loop.call_soon_threadsafe(self._resize, n)

    def shrink(self, n: int = 1) -> None:
        """Lower the concurrency by ``n``; running jobs continue."""
        self._loop.call_soon_threadsafe(self._resize, -n)

    def flush(self) -> None:
        """Drop jobs that haven't started: after a lost connection the broker redelivers their messages."""
        self._loop.call_soon_threadsafe(self._drop_waiting)

    def register_with_event_loop(self, loop: Any) -> None:
        """Check the home loop periodically from the worker's own loop."""
        loop.call_repeatedly(_CHECK_INTERVAL_S, self._check_home_loop)

    def _check_home_loop(self) -> None:
        """Requeue jobs that haven't started once the home loop has been blocked for a lease."""
        lease_s: float = getattr(getattr(self.app, "settings", None), "lease_s", _DEFAULT_LEASE_S)
        self._stalled_checks = self._stalled_checks + 1 if PULSE.stalled_s >= lease_s else 0
        if self._stalled_checks < 2:  # after a pause of the process, the loop is just as late
            return
        jobs = [job for job in (*self._running.values(), *self._waiting, *self._submitted) if job.requeue()]
        if jobs:
            _log.error(
                "The event loop has been blocked for %.0f s, requeueing %d tasks that haven't started",
                PULSE.stalled_s, len(jobs),
            )  # fmt: skip

    def on_stop(self) -> None:
        """Wait for running jobs; the messages of the others are redelivered."""
        self._open = False
        self._loop.call_soon_threadsafe(self._drain)
        while not self._drained.wait(_CHECK_INTERVAL_S) and self._loop.is_running():
            pass

    def on_terminate(self) -> None:
        """Cancel all jobs and wait for them during the grace period."""
        self._open = False
        self._loop.call_soon_threadsafe(self._cancel_all)
        self._drained.wait(_GRACE_S + _CHECK_INTERVAL_S)

    def _get_info(self) -> dict[str, Any]:
        return {
            **super()._get_info(),
            "running": len(self._running),
            "waiting": len(self._waiting) + len(self._submitted),
            "threads": len(self._threads),
            "loop": {"silent_s": round(PULSE.stalled_s, 1), **asdict(PULSE.lag)},
        }

    def _is_coroutine(self, order: PoolRequest) -> bool:
        """Check whether the task is a coroutine; the tracer's first argument is the task's name."""
        app: Any = self.app
        tasks = app.tasks
        return bool(order.args) and order.args[0] in tasks and is_coroutine_task(tasks[order.args[0]])

    def _schedule_cancel(self, job: PoolTask) -> None:
        self._loop.call_soon_threadsafe(self._cancel, job)

    # ---------------------------------------------------------------- on the home loop

    def _accept_submitted(self) -> None:
        self._woken = False
        while self._submitted:
            self._waiting.append(self._submitted.popleft())
        self._fill()

    def _fill(self) -> None:
        """Start jobs while there are free slots."""
        while self._waiting and len(self._running) < self.limit and self._open:
            self._start(self._waiting.popleft())
        if not self._open:
            self._check_drained()

    def _start(self, job: PoolTask) -> None:
        self._running[job.number] = job
        context = self._context.copy()  # not the current context, which may be another job's
        if job.is_coroutine:
            task = self._loop.create_task(self._run(job), context=context)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._threads.run(lambda: context.run(self._run_in_thread, job))
        self._set_limits(job)

    async def _run(self, job: PoolTask) -> None:
        closed = False
        try:
            await run_in_greenlet(job.execute)
        except GeneratorExit:
            closed = True
            raise
        finally:
            if not closed:
                self._finish(job)
            elif self._loop.is_running():
                # The coroutine was closed from outside, in any thread, such as by clearing its frames.
                self._loop.call_soon_threadsafe(self._fail_closed, job)

    def _finish(self, job: PoolTask) -> None:
        self._release_slot(job)
        if not self._done:
            self._loop.call_later(_NOTIFY_DELAY_S, self._notify_done)
        self._done.append(job)

    def _fail_closed(self, job: PoolTask) -> None:
        _log.error("The coroutine of job %d was closed from outside, failing the task", job.number)
        self._notify(job.fail_as_closed)
        self._finish(job)

    def _notify_done(self) -> None:
        """Notify Celery of the jobs that have finished since the last call."""
        through, self._done = self._done, []
        self._notify(lambda: [job.notify() for job in through])

    def _run_in_thread(self, job: PoolTask) -> None:
        job.execute()
        job.notify()
        self._loop.call_soon_threadsafe(self._release_slot, job)

    def _release_slot(self, job: PoolTask) -> None:
        """Release the job's slot to the next one."""
        for timer in job.timers:
            timer.cancel()
        if self._running.pop(job.number, None) is not None:
            self._fill()
        self._collector.collect_if_due(self._loop.time())

    def _set_limits(self, job: PoolTask) -> None:
        for seconds, reached in ((job.request.soft_s, self._on_soft_limit), (job.request.hard_s, self._on_hard_limit)):
            if seconds:
                job.timers.append(self._loop.call_later(seconds, reached, job))

    def _on_soft_limit(self, job: PoolTask) -> None:
        if job.raise_soft_limit() and job.request.on_timed_out is not None:
            self._notify(partial(job.request.on_timed_out, True, job.request.soft_s))

    def _on_hard_limit(self, job: PoolTask) -> None:
        if self._cancel(job) and job.request.on_timed_out is not None:
            self._notify(partial(job.request.on_timed_out, False, job.request.hard_s))

    def _notify(self, callback: Callable[[], Any]) -> None:
        """Run a callback of Celery's outside its job; it may wait for the broker or the result backend."""
        task = self._loop.create_task(self._call_in_greenlet(callback), context=self._context.copy())
        self._notifications.add(task)
        task.add_done_callback(self._on_notified)

    async def _call_in_greenlet(self, callback: Callable[[], Any]) -> None:
        await run_in_greenlet(callback)

    def _on_notified(self, task: asyncio.Task[None]) -> None:
        self._notifications.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("A callback of Celery failed", exc_info=error)
        self._fill()

    def _cancel_number(self, number: int) -> None:
        if number in self._running:
            self._cancel(self._running[number])

    def _cancel(self, job: PoolTask) -> bool:
        """Cancel a job unless it has finished; return whether it was cancelled."""
        if job.ended or not job.cancel():
            return False
        if job.number in self._running:
            self._loop.call_later(_GRACE_S, self._abandon, job)
        elif job in self._waiting:
            # Celery settles a revoked task when the pool accepts it.
            self._waiting.remove(job)
            self._notify(job.execute)
        return True

    def _abandon(self, job: PoolTask) -> None:
        if job.number in self._running:
            what = "suppressed its cancellation" if job.is_coroutine else "runs in a thread, which can't be stopped"
            _log.error("Job %d was cancelled but %s; releasing its slot", job.number, what)
            self._release_slot(job)

    def _resize(self, by: int) -> None:
        self.limit = max(0, self.limit + by)
        scale_gc_threshold(self.limit)
        self._fill()

    def _drop_waiting(self) -> None:
        self._submitted.clear()
        self._waiting.clear()

    def _drain(self) -> None:
        self._drop_waiting()
        self._check_drained()

    def _cancel_all(self) -> None:
        self._drop_waiting()
        for job in list(self._running.values()):
            self._cancel(job)
        self._check_drained()

    def _check_drained(self) -> None:
        if not self._running and not self._notifications and not self._done:
            self._drained.set()
