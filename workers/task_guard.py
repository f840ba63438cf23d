"""A guard around Celery's tracer, so that every prediction gets a final state.

The tracer runs a task and stores its result. Exceptions that it lets through or can't store, and a batch that fails as
a whole, would leave the client without a result, since the message is acknowledged all the same. With the guard,
either every prediction of the message has a committed final state, or the message is requeued.
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
from snakepit_bridge.process.home_loop import get_home_loop, run_blocking
from snakepit_bridge.protocol.messages import DEFAULT_SESSION, PREDICT_BATCH, REPLY_CHANNEL, extract_task_ids
from snakepit_bridge.redis.replication import read_durability
from tasks.runtime import HasRuntime
from tasks.spending import track_spending
from tasks.telemetry import record_processing
from workers.pool.coroutines import current_owner
from workers.rabbitmq_dead_letters import GivenUp
from workers.task_ends import program_reference, to_bridge_error

Traced = tuple[Any, TraceInfo | None, float | None, str | None]
Tracer = Callable[..., Traced]

# A requeued message is redelivered at once, possibly to this process.
_PAUSE_S = 1.0

logger = logging.getLogger(__name__)


class Guard:
    """Runs a task through its tracer, and handles what the tracer lets through.

    Args:
        task: the task.
        tracer: Celery's tracer.
    """

    def __init__(self, task: Any, tracer: Tracer) -> None:
        self._task = task
        self._tracer = tracer

    def __call__(self, uuid: str, args: Any, kwargs: Any, request: Mapping[str, Any] | None = None) -> Traced:
        """Run the task and return the tracer's result, or a rejection if it can't run here."""
        known = request or {}
        try:
            self._task.app.runtime  # noqa: B018 - built on first use
        except Exception as exc:  # noqa: BLE001 - whatever it is, other workers may succeed
            logger.error("This process can't run predictions, requeueing %s: %s", uuid, exc)
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
            asyncio.run_coroutine_threadsafe(deliveries.end(uuid), get_home_loop())

    def _run(self, uuid: str, args: Any, kwargs: Any, known: Mapping[str, Any]) -> Traced:
        """Run the tracer, and record how this delivery ended."""
        named = kwargs.get("session") if isinstance(kwargs, Mapping) else None
        session = named if isinstance(named, str) else DEFAULT_SESSION
        with (
            track_spending(uuid, known),
            record_processing(str(self._task.name), uuid, known, session) as processing,
        ):
            traced = self._run_tracer(uuid, args, kwargs, known)
            if (info := traced[1]) is not None:
                processing.end(str(info.state), info.retval if isinstance(info.retval, BaseException) else None)
            return traced

    def _run_tracer(self, uuid: str, args: Any, kwargs: Any, known: Mapping[str, Any]) -> Traced:
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
            # Celery reports a failure before the task had a request as a success.
            return self._end(uuid, known, args, _original_exception(traced[0]))
        if info is None or info.state != FAILURE:
            return traced
        if self._task.name == PREDICT_BATCH or getattr(traced[0], "internal", False) or _is_worker_error(info.retval):
            return self._end(uuid, known, args, cast(BaseException, info.retval))
        return traced

    def _end(self, uuid: str, headers: Mapping[str, Any], args: Any, exc: BaseException) -> Traced:
        """Commit an error for all unfinished predictions of the message, or requeue it if that can't be stored."""
        error = to_bridge_error(exc, program_reference(headers, args))
        task_ids = extract_task_ids(headers) or [uuid]
        if self._task.name == PREDICT_BATCH and len(task_ids) == 1:
            task_ids = _batch_task_ids(args) or task_ids
        logger.error("Task %s failed with %s, failing its predictions", uuid, type(exc).__name__)
        try:
            run_blocking(self._commit(task_ids, error, headers))
        except BaseException as commit_exc:
            # Another process may be able to store it.
            if _is_stop_request(commit_exc):
                raise
            return _trace_result(REJECTED, Reject(type(commit_exc).__name__, requeue=True))
        return _trace_result(FAILURE, error)

    async def _commit(self, task_ids: Sequence[str], error: Exception, headers: Mapping[str, Any]) -> None:
        backend, replies = self._task.backend, str(headers.get(REPLY_CHANNEL) or "")
        ways = {"reply_channel": replies, "durability": read_durability(headers)}
        await asyncio.gather(*(backend.acommit(task_id, error, FAILURE, **ways) for task_id in task_ids))


def _batch_task_ids(args: Any) -> list[str]:
    """Return the task ids of a batch whose headers don't list them."""
    try:
        return [task_id for task_id, _ in args[0] if isinstance(task_id, str)]
    except (TypeError, ValueError, LookupError):
        return []


def _original_exception(info: Any) -> BaseException:
    return getattr(info.exception, "exc", info.exception)


def _is_stop_request(exc: BaseException) -> bool:
    """Check whether the pool or the worker stops this task, and settles it by itself."""
    if isinstance(exc, asyncio.CancelledError | GeneratorExit) and getattr(current_owner(), "ended", False):
        return True
    if not isinstance(exc, SystemExit | KeyboardInterrupt):
        return False
    # A pool process is told to exit by a signal. A program's own SystemExit is converted before it gets here.
    stopping = (why is not None and why is not False for why in (state.should_stop, state.should_terminate))
    return any(stopping) or current_process().name != "MainProcess"


def _is_worker_error(exc: object) -> bool:
    """Check whether Celery treats an error that a task raised as one of the worker."""
    return isinstance(exc, MemoryError) or not isinstance(exc, Exception)


def _trace_result(how: str, error: Exception) -> Traced:
    try:
        raise error
    except type(error):
        return cast(Any, ExceptionInfo(internal=how == REJECTED)), TraceInfo(how, error), 0.0, None
