"""Final states of predictions whose task can't commit one itself.

That is when a message was dead-lettered, rejected, revoked, expired or stopped by a time limit. Everything needed is
in the message's headers. The first final state of a task wins, so committing one again is harmless. Commits are
retried in a background thread until they succeed, so that they block neither the keeper nor the consumer.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from celery.app.task import Context
from celery.exceptions import TimeLimitExceeded
from celery.signals import worker_init, worker_ready
from celery.states import FAILURE

from config.settings import FleetSettings
from snakepit_bridge.delivery.dead_letters import FORGED, DeadLetter, DeadLetters
from snakepit_bridge.delivery.keys import REDIS_SCHEMES
from snakepit_bridge.exceptions import (
    BridgeError,
    PredictionFailedError,
    PredictionGivenUpError,
    StoreUnavailableError,
    error_text,
)
from snakepit_bridge.process.forking import after_fork_in_child
from snakepit_bridge.protocol.messages import (
    PREDICT,
    PREDICT_BATCH,
    PROGRAM,
    REPLY_CHANNEL,
    RUN_JOB,
    TASK_IDS,
    extract_task_ids,
)
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.outages import is_outage
from workers.broker import dead_lettering as given_up
from workers.broker.message import EMBED

ErrorOf = Callable[[str], BridgeError]
"""Creates the error of a task from its id."""

GUARDED_TASKS = frozenset({PREDICT, PREDICT_BATCH, RUN_JOB})
"""The tasks of which every exit commits a result or returns the message."""

# Dead letters that are checked when a worker starts.
_MAX_ORPHANS = 200
_FLUSH_AT_EXIT_S = 3.0
_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Ends:
    app: Any
    headers: Mapping[str, Any]
    error_of: ErrorOf
    state: str
    then: Callable[[], object] | None


@dataclass(slots=True)
class EndCommitter:
    """Commits final states in a background thread, one after the other, retrying each until it is stored."""

    _waiting: queue.SimpleQueue[_Ends] = field(default_factory=queue.SimpleQueue[_Ends])
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None
    _left: int = 0

    def commit(
        self,
        app: Any,
        headers: Mapping[str, Any],
        error_of: ErrorOf,
        *,
        state: str = FAILURE,
        then: Callable[[], object] | None = None,
    ) -> None:
        """Commit an error for all predictions of a message.

        Args:
            app: the Celery app with the result backend.
            headers: the message's.
            error_of: what each of them ends with.
            state: Celery's state of such an end.
            then: called once all ends are stored.
        """
        with self._lock:
            self._left += 1
            self._waiting.put(_Ends(app, headers, error_of, state, then))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="dspex-ends", daemon=True)
                self._thread.start()

    def retry(self, step: Callable[[], object]) -> None:
        """Take a step in the background thread, again and again while Redis is away."""
        self.commit(None, {}, BridgeError, then=step)

    def clear(self) -> None:
        """Drop everything: a forked child has none of its parent's commits."""
        self._waiting, self._lock, self._thread, self._left = queue.SimpleQueue(), threading.Lock(), None, 0

    def flush(self, wait_s: float) -> None:
        """Wait until everything is stored, for at most ``wait_s`` seconds."""
        until = time.monotonic() + wait_s
        while self._left and time.monotonic() < until:
            time.sleep(0.02)

    def _run(self) -> None:
        while True:
            self._store(self._waiting.get())
            with self._lock:
                self._left -= 1

    def _store(self, ends: _Ends) -> None:
        left = extract_task_ids(ends.headers)
        if left:
            self._retry_until_done(lambda: self._commit(ends, left), f"The errors of {len(left)} predictions")
        if ends.then is not None:
            self._retry_until_done(ends.then, "What follows a message's error")

    @staticmethod
    def _retry_until_done(step: Callable[[], object], what: str) -> None:
        failed = 0
        while True:
            try:
                step()
            except Exception as exc:
                if not is_outage(exc):
                    logger.exception("%s can't be stored", what)
                    return
                if not failed:
                    logger.warning("%s can't be stored yet: %s", what, exc)
                time.sleep(_PAUSES_S[min(failed, len(_PAUSES_S) - 1)])
                failed += 1
            else:
                return

    @staticmethod
    def _commit(ends: _Ends, left: list[str]) -> None:
        """Commit one after the other, removing each from ``left``."""
        replies = str(ends.headers.get(REPLY_CHANNEL) or "")
        while left:
            error = ends.error_of(left[0])
            ends.app.backend.commit_now(left[0], error, ends.state, reply_channel=replies, headers=ends.headers)
            left.pop(0)


END_COMMITTER = EndCommitter()
after_fork_in_child(END_COMMITTER.clear)
atexit.register(END_COMMITTER.flush, _FLUSH_AT_EXIT_S)


def connect_signals() -> None:
    """Have workers store errors for the predictions of dead letters, including those left over by dead workers."""
    worker_init.connect(_listen, dispatch_uid=__name__)
    worker_ready.connect(_repair, dispatch_uid=__name__)


def end_predictions(app: Any, summary: Mapping[str, Any], done: Callable[[], object] | None = None) -> None:
    """Store an error for the predictions of a dead-lettered message.

    Args:
        app: the Celery app with the result backend.
        summary: the message's summary; see ``snakepit_bridge.delivery.dead_letters``.
        done: called once everything is stored.
    """
    reason, error = str(summary["reason"]), str(summary["error"])
    # The predictions that a forged one names may be somebody else's.
    named: Mapping[str, Any] = {} if reason == FORGED else summary
    headers = {**named, "id": named.get("task_id")}

    def error_of(task_id: str) -> BridgeError:
        return PredictionGivenUpError(task_id, reason, error)

    def follow() -> None:
        if EMBED in named:
            end_callbacks(app, Context({**headers, **named[EMBED]}), error_of(str(headers["id"])), FAILURE)
        if done is not None:
            done()

    END_COMMITTER.commit(app, headers, error_of, then=follow if EMBED in named or done is not None else None)


def end_callbacks(app: Any, request: Context, error: BridgeError, how: str) -> None:
    """Fail the rest of a chain, the chord and the error callbacks of a task whose own error is stored.

    Args:
        app: the Celery app.
        request: the task's request.
        error: the task's error.
        how: the task's state.
    """
    if request.chain or request.chord or request.errbacks:
        app.backend.mark_as_failure(request.id, error, request=request, state=how)


def end_orphans(app: Any) -> None:
    """Store missing errors for predictions of dead letters, whose worker died before it could store them."""
    settings: FleetSettings = app.settings
    if settings.broker.startswith(REDIS_SCHEMES):
        for letter in asyncio.run(_recent_dead_letters(settings)):
            end_predictions(app, {"reason": letter.reason, "error": letter.error, TASK_IDS: list(letter.task_ids)})


async def _recent_dead_letters(settings: FleetSettings) -> list[DeadLetter]:
    connection = RedisConnection(settings.broker, timeout_s=settings.redis_timeout_s)
    try:
        letters = await DeadLetters(connection, namespace=settings.namespace).latest(_MAX_ORPHANS)
    finally:
        await connection.aclose()
    return [letter for letter in letters if letter.at > time.time() - settings.result_expires_s]


def to_bridge_error(exc: BaseException, program: str) -> BridgeError:
    """Convert any exception of a message's task to a bridge error; never raises."""
    if isinstance(exc, BridgeError):
        return exc
    if isinstance(exc, TimeLimitExceeded):
        return time_limit_error(program, exc.args[0] if exc.args else 0.0)
    return PredictionFailedError(program, type(exc).__name__, one_line_text(exc))


def time_limit_error(program: str, limit_s: float) -> PredictionFailedError:
    """Return the error of a prediction that hit its message's time limit."""
    return PredictionFailedError(
        program, TimeLimitExceeded.__name__, f"it ran into the worker's time limit of {limit_s:g} s"
    )


def program_reference(headers: Mapping[str, Any], args: Sequence[Any] = ()) -> str:
    """Return the reference of a message's program, or "unknown"."""
    reference = headers.get(PROGRAM) or (args[1] if isinstance(args, list | tuple) and len(args) > 1 else None)
    return reference if isinstance(reference, str) else "unknown"


def one_line_text(exc: BaseException) -> str:
    """Return an exception's text on one line."""
    return " ".join(error_text(exc).split())[:1_000]


def _listen(sender: Any, **_: Any) -> None:
    given_up.add_listener(partial(end_predictions, sender.app))


def _repair(sender: Any, **_: Any) -> None:
    def look() -> None:
        try:
            end_orphans(sender.app)
        except (StoreUnavailableError, OSError) as exc:
            logger.warning("Checking the dead-letter list for predictions without an error failed: %s", exc)

    threading.Thread(target=look, name="dspex-repair", daemon=True).start()
