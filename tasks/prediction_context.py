"""The context of the running prediction, for LM calls, limits and cancellation deep below it, and its containment.

A program is user code, so nothing can be passed through it as an argument. DSPy propagates its settings into tasks,
threads and its own pools, but not other context variables; so the context is one of DSPy's settings.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import dspy

from snakepit_bridge.dspy_integration.tool_calls import TOOL_JOURNAL_SETTING
from snakepit_bridge.exceptions import (
    BridgeError,
    DeadlineExceededError,
    LMUnavailableError,
    PredictionFailedError,
    error_text,
)
from snakepit_bridge.lm.captured_calls import CallCapture
from snakepit_bridge.lm_batches.records import WaitingRequest
from snakepit_bridge.programs.spec import CacheSpec
from snakepit_bridge.snapshots.snapshot import Snapshot
from tasks.journal.journal import CallJournal
from tasks.journal.tools import JournaledTools
from tasks.rate_limits.protocol import Permit
from tasks.spending import Spending

T = TypeVar("T")

_SETTING = "dspex_scope"
_ASYNC_WORKERS = 1_000


@dataclass(slots=True)
class Tally:
    """Counters of the LM calls of one prediction.

    Attributes:
        failed_tries: failed attempts that were retried.
        sent_requests: requests that went to a provider.
        answered_calls: answered calls by LM profile.
        cache_hits: calls that the response cache answered.
        shared_answers: calls that waited for an identical call of another prediction.
        finish_reasons: answers by finish reason, and ``last_finish_reason`` the one of the last answer.
        dropped: LM keyword to the model that doesn't support it and was called without it.
        deferred: the failure of a call that is retried by redelivery of the task.
        failure: the last failure of a call that isn't retried.
    """

    failed_tries: int = 0
    sent_requests: int = 0
    answered_calls: Counter[str] = field(default_factory=Counter)
    cache_hits: int = 0
    shared_answers: int = 0
    finish_reasons: Counter[str] = field(default_factory=Counter)
    last_finish_reason: str = ""
    dropped: dict[str, str] = field(default_factory=dict)
    deferred: LMUnavailableError | None = None
    failure: BridgeError | None = None


@dataclass(slots=True, eq=False)
class PredictionContext:
    """A running prediction.

    Attributes:
        task_id: the Celery task id.
        session: the session whose variables it runs under.
        program: the program's name, and ``version`` its number.
        snapshot: the revision that it is bound to.
        deadline: Unix seconds after which it makes no LM call; None for no deadline.
        priority: 0 to 9 (most urgent).
        queue: the queue of its message, and ``claim`` the delivery tag.
        tries: attempts in earlier deliveries of the task, and ``failing_s`` the seconds of retrying.
        checked_at: when its stored result was last checked for a cancellation, by the monotonic clock.
        permit: the rate-limit permit granted before it started, until its first LM call takes it.
        is_cancelled: whether it was cancelled; further LM calls are refused.
        has_ended: whether it has ended; code that is still running makes no LM call.
        cache: the response cache settings of its program; None for no cache.
        call_counts: number of identical calls so far, by cache key.
        unparsed: cached calls whose answer no adapter has parsed yet, by the answer's text.
        tally: counters of its LM calls, and ``spending`` what they use and cost.
        calls: the tasks of its LM calls in flight, so that a cancellation can cancel them.
        journal: what its calls were answered; None if its program keeps no journal.
        capture: collects its LM calls, to be kept with its result; None if they aren't.
        payload: the reference to its inputs, where they are stored beside its message; else empty.
        batch_requests: its calls that wait for a batch, and ``parked`` what they await.
        is_parked: whether its message has left this worker, so that it must not go on.
    """

    task_id: str
    session: str
    program: str
    version: int
    snapshot: Snapshot
    deadline: float | None = None
    priority: int = 0
    queue: str = ""
    claim: str = ""
    tries: int = 0
    failing_s: float = 0.0
    checked_at: float = float("-inf")
    permit: Permit | None = None
    is_cancelled: bool = False
    has_ended: bool = False
    cache: CacheSpec | None = None
    call_counts: Counter[str] = field(default_factory=Counter)
    unparsed: dict[str, list[Any]] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    spending: Spending = field(default_factory=lambda: Spending(""))
    calls: set[asyncio.Task[Any]] = field(default_factory=set)
    journal: CallJournal | None = None
    payload: str = ""
    capture: CallCapture | None = None
    batch_requests: list[WaitingRequest] = field(default_factory=list)
    parked: asyncio.Future[None] | None = None
    is_parked: bool = False

    def remaining_s(self) -> float | None:
        """Return the seconds until the deadline, at least 0; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.time())

    def take_permit(self) -> Permit | None:
        """Return the permit granted before the start, to the first caller only."""
        permit, self.permit = self.permit, None
        return permit

    def deadline_error(self) -> DeadlineExceededError:
        """Return the error for a missed deadline."""
        return DeadlineExceededError(self.task_id, round(max(0.0, time.time() - (self.deadline or 0.0)), 3))

    async def within_deadline(self, awaited: Awaitable[T]) -> T:
        """Await something with the deadline as timeout.

        Raises:
            DeadlineExceededError: the deadline passed.
        """
        left = self.remaining_s()
        if left is None:
            return await awaited
        bounds = asyncio.timeout(left)
        try:
            async with bounds:
                return await awaited
        except TimeoutError:
            if not bounds.expired():
                raise
            raise self.deadline_error() from None

    @contextmanager
    def track_call(self) -> Generator[None]:
        """Register the current task as an LM call in flight while the block runs."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self.calls.add(task)
        try:
            yield
        finally:
            self.calls.discard(task)


@contextmanager
def activate(scope: PredictionContext) -> Generator[PredictionContext]:
    """Make a context the current one within the block."""
    scope.has_ended = False
    try:
        # DSPy's default lets only eight asyncified programs run at a time.
        tools = None if scope.journal is None else JournaledTools(scope.journal, scope.task_id, scope.deadline)
        settings = {_SETTING: scope, "async_max_workers": _ASYNC_WORKERS, TOOL_JOURNAL_SETTING: tools}
        with dspy.context(**settings):
            yield scope
    finally:
        scope.has_ended = True


def current_prediction() -> PredictionContext | None:
    """Return the context of the caller's prediction, None outside of one."""
    scope: PredictionContext | None = dspy.settings.get(_SETTING)
    return scope


class ContainedCoroutine:
    """An awaitable around a program's coroutine.

    ``SystemExit`` and ``KeyboardInterrupt`` would stop the event loop of the whole process, and ``GeneratorExit`` can't
    be told from closing the coroutine. If the program raises one of them, :class:`PredictionFailedError` is raised
    instead; closing the coroutine still closes it.

    Args:
        work: the program's coroutine.
        program: its name, for the error.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], program: str) -> None:
        self._work = work
        self._program = program

    def __await__(self) -> Generator[Any, Any, Any]:
        error: BaseException | None = None
        while True:
            try:
                waits_for = self._work.send(None) if error is None else self._work.throw(error)
            except StopIteration as done:
                return done.value
            except (SystemExit, KeyboardInterrupt, GeneratorExit) as exc:
                raise PredictionFailedError(self._program, type(exc).__name__, error_text(exc)) from exc
            try:
                yield waits_for
                error = None
            except GeneratorExit:
                self._work.close()
                raise
            except BaseException as exc:  # noqa: BLE001 (asyncio throws in the exception of the awaited future)
                error = exc
