"""The running predictions of this process, so that a cancelled one stops at once, its LM request included.

A cancellation is a committed result (REVOKED); the pub/sub message is only a hint. So the results of running
predictions are also polled each second, after each reconnect, and before each LM call.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from contextvars import Context
from typing import Any, cast

from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import Ignore

from snakepit_bridge.exceptions import PredictionCancelledError, StoreUnavailableError, copy_error
from snakepit_bridge.process.aio import BackgroundTasks, OutageLog, cancel_tasks, every
from snakepit_bridge.process.home_loop import share_future
from snakepit_bridge.protocol.messages import cancel_channel, is_final
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.pubsub import Subscription, text_handler
from tasks.prediction_context import PredictionContext

_POLL_INTERVAL_S = 1.0
# A task's result is checked when it is received; its first LM call mostly follows within milliseconds.
_CHECK_TTL_S = 0.25

_log = logging.getLogger(__name__)


class CancellationRegistry:
    """The running predictions of one process. Lives on the home loop.

    Args:
        connection: the result backend.
        signals: the subscription that cancellations arrive on.
        namespace: prefix of the channel.
    """

    def __init__(self, connection: RedisConnection, signals: Subscription, *, namespace: str) -> None:
        self._connection = connection
        self._signals = signals
        self._contexts: dict[str, dict[PredictionContext, asyncio.Task[Any]]] = {}
        self._pending_checks: dict[str, asyncio.Future[bool]] = {}
        self._check_tasks = BackgroundTasks()
        self._poller: asyncio.Task[None] | None = None
        self._poll_now = asyncio.Event()
        self._outage = OutageLog(_log, "Can't check for cancelled predictions")
        signals.register(cancel_channel(namespace), text_handler(self.cancel, self._poll_now.set))

    @contextmanager
    def track(self, scope: PredictionContext) -> Generator[None]:
        """Register a prediction while the block runs, so that a cancellation interrupts it.

        Raises:
            PredictionCancelledError: it was cancelled.
            Ignore: it was interrupted, since its message has left this worker.
        """
        self._start()
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._contexts.setdefault(scope.task_id, {})[scope] = task
        try:
            yield
        except asyncio.CancelledError:
            if scope.is_parked and not scope.is_cancelled:
                task.uncancel()
                raise Ignore(f"prediction {scope.task_id} waits for a batch of LM calls") from None
            if not scope.is_cancelled:
                raise
            task.uncancel()
            raise PredictionCancelledError(scope.task_id) from None
        finally:
            self._untrack(scope)

    def cancel(self, task_id: str) -> None:
        """Cancel the LM calls in flight of a task id, and the program that made them."""
        for scope, task in self._contexts.get(task_id, {}).items():
            if not scope.is_cancelled:
                scope.is_cancelled = True
                for each in {task, *scope.calls}:
                    each.cancel()

    def interrupt(self, scope: PredictionContext) -> None:
        """End a prediction here and its LM calls, without an end of the prediction: its message is elsewhere."""
        task = self._contexts.get(scope.task_id, {}).get(scope)
        if task is not None and not scope.is_cancelled:
            scope.is_parked = True
            for each in {task, *scope.calls}:
                each.cancel()

    async def check_wanted(self, scope: PredictionContext) -> None:
        """Check whether a prediction is still wanted, before it makes an LM call.

        Raises:
            DeadlineExceededError: its deadline has passed.
            PredictionCancelledError: it was cancelled, or another delivery of its task has finished.
        """
        if scope.is_cancelled:
            raise PredictionCancelledError(scope.task_id)
        if scope.deadline is not None and time.time() >= scope.deadline:
            raise scope.deadline_error()
        now = time.monotonic()
        if now - scope.checked_at < _CHECK_TTL_S:
            return
        try:
            ended = await self._has_ended(scope.task_id)
        except StoreUnavailableError:
            # Logged once for the whole batch of checks. The outage policy decides whether a prediction may go on.
            return
        scope.checked_at = now
        if ended:
            scope.is_cancelled = True
            raise PredictionCancelledError(scope.task_id)

    async def aclose(self) -> None:
        """Stop polling and unsubscribe."""
        await self._signals.aclose()
        await cancel_tasks(self._poller)

    def _untrack(self, scope: PredictionContext) -> None:
        scopes = self._contexts.get(scope.task_id, {})
        scopes.pop(scope, None)
        if not scopes:
            self._contexts.pop(scope.task_id, None)

    def _start(self) -> None:
        self._signals.start()
        if self._poller is None or self._poller.done():
            # In a context of its own: it outlives the prediction that starts it.
            self._poller = asyncio.get_running_loop().create_task(
                every(_POLL_INTERVAL_S, self._poll, self._outage, wake_up=self._poll_now, at_once=False),
                context=Context(),
            )

    # ------------------------------------------------------------------ checks

    async def _has_ended(self, task_id: str) -> bool:
        """Check whether a task has its final result. Checks of one iteration of the loop share one command."""
        pending = self._pending_checks.get(task_id)
        if pending is None:
            pending = self._pending_checks[task_id] = asyncio.get_running_loop().create_future()
            if len(self._pending_checks) == 1:
                self._check_tasks.spawn(self._run_pending_checks())
        return await share_future(pending)

    async def _run_pending_checks(self) -> None:
        pending, self._pending_checks = self._pending_checks, {}
        try:
            ended = await self._find_ended(list(pending))
        except Exception as exc:  # noqa: BLE001 (it is raised in each that waits)
            _log.warning("Can't check whether %d predictions are still wanted: %s", len(pending), exc)
            for future in pending.values():
                future.set_exception(copy_error(exc))
                future.exception()  # its caller may have been cancelled
            return
        for task_id, future in pending.items():
            future.set_result(task_id in ended)

    async def _poll(self) -> bool:
        running = list(self._contexts)
        for task_id in await self._find_ended(running):
            self.cancel(task_id)
        return bool(running)

    async def _find_ended(self, task_ids: Sequence[str]) -> set[str]:
        if not task_ids:
            return set()
        keys = [f"{KeyValueStoreBackend.task_keyprefix}{task_id}" for task_id in task_ids]
        return {
            task_id
            for task_id, stored in zip(task_ids, await self._fetch_results(keys), strict=True)
            if is_final(stored)
        }

    async def _fetch_results(self, keys: Iterable[str]) -> Sequence[Any]:
        if self._connection.cluster:
            return await self._connection.send_each([("GET", key) for key in keys])
        return await self._connection.wait_bounded(self._connection.client.mget(list(keys)))
