"""Endings: whatever ends a message ends its predictions, each with a committed end of its own under a named error.

A prediction's own task commits its end. Here stand the ends that no task brings: of messages that were given up,
rejected, revoked, expired or stopped by a time limit. What is needed for them stands in the message's headers. The
first end of a task counts, so that one which is brought twice does no harm; and one that can't be stored is tried again
until it can, in a thread of its own, since whoever gives a message up has others to look after.
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
from snakepit_bridge.delivery.dead_letters import DeadLetter, DeadLetters
from snakepit_bridge.delivery.keys import REDIS
from snakepit_bridge.exceptions import (
    BridgeError,
    PredictionFailedError,
    PredictionGivenUpError,
    StoreUnavailableError,
    error_text,
)
from snakepit_bridge.process.forking import after_fork_in_child
from snakepit_bridge.protocol.messages import PREDICT, PREDICT_BATCH, PROGRAM, REPLY_CHANNEL, TASK_IDS, task_ids_of
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.outages import is_outage
from workers.broker import dead_lettering as given_up
from workers.broker.message import EMBED

ErrorOf = Callable[[str], BridgeError]
"""What makes the error with which a task ends, out of its id."""

PREDICTIONS = frozenset({PREDICT, PREDICT_BATCH})

# Dead messages that are looked through at a worker's start.
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
    """Commits ends from a thread of its own, one after the other, each until it is stored."""

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
        """End all predictions of a message.

        Args:
            app: the Celery app, which has the result backend.
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

    def clear(self) -> None:
        """Forget all: a forked child has none of its parent's ends to bring."""
        self._waiting, self._lock, self._thread, self._left = queue.SimpleQueue(), threading.Lock(), None, 0

    def flush(self, wait_s: float) -> None:
        """Wait until all ends are stored, for so many seconds at most."""
        until = time.monotonic() + wait_s
        while self._left and time.monotonic() < until:
            time.sleep(0.02)

    def _run(self) -> None:
        while True:
            self._store(self._waiting.get())
            with self._lock:
                self._left -= 1

    def _store(self, ends: _Ends) -> None:
        left = task_ids_of(ends.headers)
        self._retry_until_done(lambda: self._commit(ends, left), f"The ends of {len(left)} predictions")
        if ends.then is not None:
            self._retry_until_done(ends.then, "What follows from the end of a message")

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
        """Commit one after the other, and leave over what is still to be committed."""
        replies = str(ends.headers.get(REPLY_CHANNEL) or "")
        while left:
            error = ends.error_of(left[0])
            ends.app.backend.commit_now(left[0], error, ends.state, reply_channel=replies)
            left.pop(0)


END_COMMITTER = EndCommitter()
after_fork_in_child(END_COMMITTER.clear)
atexit.register(END_COMMITTER.flush, _FLUSH_AT_EXIT_S)


def connect_signals() -> None:
    """Have each worker end the predictions of messages that it gives up, and of those that others gave up and died."""
    worker_init.connect(_listen, dispatch_uid=__name__)
    worker_ready.connect(_repair, dispatch_uid=__name__)


def end_predictions(app: Any, told: Mapping[str, Any], done: Callable[[], object] | None = None) -> None:
    """End the predictions of a message that was given up.

    Args:
        app: the Celery app, which has the result backend.
        told: what is known of the message; see ``snakepit_bridge.delivery.dead_letters``.
        done: called once all of that is stored.
    """
    reason, error = str(told["reason"]), str(told["error"])
    headers = {**told, "id": told.get("task_id")}

    def error_of(task_id: str) -> BridgeError:
        return PredictionGivenUpError(task_id, reason, error)

    def follow() -> None:
        if EMBED in told:
            end_callbacks(app, Context({**headers, **told[EMBED]}), error_of(str(headers["id"])), FAILURE)
        if done is not None:
            done()

    END_COMMITTER.commit(app, headers, error_of, then=follow if EMBED in told or done is not None else None)


def end_callbacks(app: Any, request: Context, error: BridgeError, how: str) -> None:
    """End the rest of a chain, and tell the chord or the error callbacks, of a task whose own end is stored.

    Args:
        app: the Celery app.
        request: the task's.
        error: what it ended with.
        how: its state.
    """
    if request.chain or request.chord or request.errbacks:
        app.backend.mark_as_failure(request.id, error, request=request, state=how)


def end_orphans(app: Any) -> None:
    """End the predictions of messages on the dead list that have no end: their worker died before it could store it."""
    settings: FleetSettings = app.settings
    if settings.broker.startswith(REDIS):
        for one in asyncio.run(_recent_dead_letters(settings)):
            end_predictions(app, {"reason": one.reason, "error": one.error, TASK_IDS: list(one.task_ids)})


async def _recent_dead_letters(settings: FleetSettings) -> list[DeadLetter]:
    connection = RedisConnection(settings.broker, timeout_s=settings.redis_timeout_s)
    try:
        found = await DeadLetters(connection, namespace=settings.namespace).latest(_MAX_ORPHANS)
    finally:
        await connection.aclose()
    return [one for one in found if one.at > time.time() - settings.result_expires_s]


def to_bridge_error(exc: BaseException, program: str) -> BridgeError:
    """Return the named error for whatever ended a message's task; it never raises, whatever that is."""
    if isinstance(exc, BridgeError):
        return exc
    if isinstance(exc, TimeLimitExceeded):
        return time_limit_error(program, exc.args[0] if exc.args else 0.0)
    return PredictionFailedError(program, type(exc).__name__, one_line_text(exc))


def time_limit_error(program: str, limit_s: float) -> PredictionFailedError:
    """Return the error of a prediction that was stopped by its message's time limit."""
    return PredictionFailedError(
        program, TimeLimitExceeded.__name__, f"it ran into the worker's time limit of {limit_s:g} s"
    )


def program_reference(headers: Mapping[str, Any], args: Sequence[Any] = ()) -> str:
    """Return the reference of a message's program, as far as it is known."""
    said = headers.get(PROGRAM) or (args[1] if isinstance(args, list | tuple) and len(args) > 1 else None)
    return said if isinstance(said, str) else "unknown"


def one_line_text(exc: BaseException) -> str:
    """Return what an exception says, on one line."""
    return " ".join(error_text(exc).split())[:1_000]


def _listen(sender: Any, **_: Any) -> None:
    given_up.add_listener(partial(end_predictions, sender.app))


def _repair(sender: Any, **_: Any) -> None:
    def look() -> None:
        try:
            end_orphans(sender.app)
        except (StoreUnavailableError, OSError) as exc:
            logger.warning("The dead list can't be looked through for predictions without an end: %s", exc)

    threading.Thread(target=look, name="dspex-repair", daemon=True).start()
