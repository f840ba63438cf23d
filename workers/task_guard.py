"""Guard: Celery's tracer of the fleet's tasks, from which no exception gets out and after which nobody waits for ever.

The tracer runs a task and stores its end. What it lets through, what it can't store, and a batch that ends by an error
would leave whoever asked without an answer, since the message is acknowledged all the same. Here each way out is one of
two: every prediction of the message has a committed end, or the message goes back to its queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from billiard.einfo import ExceptionInfo
from billiard.process import current_process
from celery.app.trace import TraceInfo
from celery.exceptions import Reject
from celery.states import FAILURE, REJECTED
from celery.worker import state

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.process.home_loop import home, run_blocking
from snakepit_bridge.protocol.messages import PREDICT_BATCH, REPLY_CHANNEL, task_ids_of
from tasks.runtime import HasRuntime
from workers.pool.task_context import current_owner
from workers.rabbitmq_dead_letters import GivenUp
from workers.task_ends import program_reference, to_bridge_error

Traced = tuple[Any, TraceInfo | None, float | None, str | None]
Tracer = Callable[..., Traced]

# A message that goes back is given out again at once, to this process perhaps.
_PAUSE_S = 1.0

logger = logging.getLogger(__name__)


class Guard:
    """Runs a task as its tracer does.

    Args:
        task: the task.
        tracer: Celery's own.
    """

    def __init__(self, task: Any, tracer: Tracer) -> None:
        self._task = task
        self._tracer = tracer

    def __call__(self, uuid: str, args: Any, kwargs: Any, request: Mapping[str, Any] | None = None) -> Traced:
        """Return what the tracer returns for a task that has ended, or is in other hands."""
        known = request or {}
        try:
            self._task.app.runtime  # noqa: B018 - built here if it wasn't yet
        except Exception as exc:  # noqa: BLE001 - whatever it is, other workers may be better off
            logger.error("This process can't run predictions, so that %s goes back: %s", uuid, exc)
            run_blocking(asyncio.sleep(_PAUSE_S))
            return _trace_result(REJECTED, Reject(type(exc).__name__, requeue=True))
        deliveries = cast(HasRuntime, self._task.app).runtime.deliveries
        if deliveries is None:
            return self._run(uuid, args, kwargs, known)
        first = dict(known.get("delivery_info") or {}).get("redelivered") is False
        try:
            deaths = run_blocking(deliveries.begin(uuid, first=first))
        except StoreUnavailableError as exc:
            return _trace_result(REJECTED, Reject(type(exc).__name__, requeue=True))
        if deaths:
            return _trace_result(REJECTED, GivenUp(str(deaths)))
        try:
            return self._run(uuid, args, kwargs, known)
        finally:
            asyncio.run_coroutine_threadsafe(deliveries.end(uuid), home())

    def _run(self, uuid: str, args: Any, kwargs: Any, known: Mapping[str, Any]) -> Traced:
        try:
            traced = self._tracer(uuid, args, kwargs, known)
        except Reject as exc:
            return _trace_result(REJECTED, exc)
        except BaseException as exc:
            if _is_stop_request(exc):
                raise
            return self._end(uuid, known, args, exc)
        info = traced[1]
        if info is None and isinstance(traced[0], ExceptionInfo):
            # What failed before the task had a request counts as a success there.
            return self._end(uuid, known, args, _original_exception(traced[0]))
        if info is None or info.state != FAILURE:
            return traced
        if self._task.name == PREDICT_BATCH or getattr(traced[0], "internal", False) or _is_worker_error(info.retval):
            return self._end(uuid, known, args, cast(BaseException, info.retval))
        return traced

    def _end(self, uuid: str, headers: Mapping[str, Any], args: Any, exc: BaseException) -> Traced:
        """End whatever the message asks for that has no end yet; if that can't be stored, the message goes back."""
        error = to_bridge_error(exc, program_reference(headers, args))
        task_ids = task_ids_of(headers) or [uuid]
        if self._task.name == PREDICT_BATCH and len(task_ids) == 1:
            task_ids = _batch_task_ids(args) or task_ids
        logger.error("Task %s ended by %s: its predictions end by that, too", uuid, type(exc).__name__)
        try:
            run_blocking(self._commit(task_ids, error, str(headers.get(REPLY_CHANNEL) or "")))
        except BaseException as stuck:
            # What can't be stored here may be stored by another process.
            if _is_stop_request(stuck):
                raise
            return _trace_result(REJECTED, Reject(type(stuck).__name__, requeue=True))
        return _trace_result(FAILURE, error)

    async def _commit(self, task_ids: Sequence[str], error: Exception, replies: str) -> None:
        backend = self._task.backend
        waits = (backend.acommit(task_id, error, FAILURE, reply_channel=replies) for task_id in task_ids)
        await asyncio.gather(*waits)


def _batch_task_ids(args: Any) -> list[str]:
    """Return the task ids of a batch that its sender didn't name in the headers."""
    try:
        return [task_id for task_id, _ in args[0] if isinstance(task_id, str)]
    except (TypeError, ValueError, LookupError):
        return []


def _original_exception(info: Any) -> BaseException:
    return getattr(info.exception, "exc", info.exception)


def _is_stop_request(exc: BaseException) -> bool:
    """Whether the pool or the worker itself stops this task, and says by itself what becomes of it."""
    if isinstance(exc, asyncio.CancelledError | GeneratorExit) and getattr(current_owner(), "ended", False):
        return True
    if not isinstance(exc, SystemExit | KeyboardInterrupt):
        return False
    # A process of a pool is told to exit by a signal. What a program raises doesn't come here as it is.
    stopping = (why is not None and why is not False for why in (state.should_stop, state.should_terminate))
    return any(stopping) or current_process().name != "MainProcess"


def _is_worker_error(exc: object) -> bool:
    """Whether Celery takes an error that a task raised for one of its worker's."""
    return isinstance(exc, MemoryError) or not isinstance(exc, Exception)


def _trace_result(how: str, error: Exception) -> Traced:
    try:
        raise error
    except type(error):
        return cast(Any, ExceptionInfo(internal=how == REJECTED)), TraceInfo(how, error), 0.0, None
