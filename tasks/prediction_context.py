"""What is known of the prediction that runs, for whatever happens deep below it: LM calls, limits, cancellation.

A program is somebody else's code, so nothing can be handed down through it. DSPy carries its settings into tasks,
threads and its own pools, which it doesn't with a context variable of ours; so the scope travels among them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import dspy

from snakepit_bridge.exceptions import BridgeError, DeadlineExceededError, LMUnavailableError
from snakepit_bridge.programs.spec import CacheSpec
from snakepit_bridge.snapshots.snapshot import Snapshot
from tasks.rate_limits.protocol import Permit

T = TypeVar("T")

_SETTING = "dspex_scope"
_ASYNC_WORKERS = 1_000


@dataclass(slots=True)
class Tally:
    """What the LM calls of one prediction came to.

    Attributes:
        failed: tries that went wrong in a way that is tried again.
        sent: requests that went to a provider.
        answered: LM profile to the calls that it answered.
        cached: calls that the response cache answered.
        shared: calls that waited for another prediction's identical one.
        finished: why answers ended, to how many did, and ``last_finish`` why the last one did.
        dropped: LM keyword to the model that doesn't take it, and that was asked without it.
        later: the failure of a call that has to be made later, by another delivery of the task.
        failure: the last failure of a call that no other try mends.
    """

    failed_tries: int = 0
    sent_requests: int = 0
    answered_calls: Counter[str] = field(default_factory=Counter[str])
    cache_hits: int = 0
    shared_answers: int = 0
    finish_reasons: Counter[str] = field(default_factory=Counter[str])
    last_finish_reason: str = ""
    dropped: dict[str, str] = field(default_factory=dict[str, str])
    deferred: LMUnavailableError | None = None
    failure: BridgeError | None = None


@dataclass(slots=True, eq=False)
class PredictionContext:
    """One prediction while it runs.

    Attributes:
        task_id: the Celery task.
        session: the session whose variables it runs under.
        program: the program's name, and ``version`` its number.
        snapshot: the revision that it is bound to.
        deadline: unix seconds after which it calls no LM; None is no bound.
        priority: 0 to 9, the most urgent.
        queue: the queue that its message came from, and ``claim`` the tag under which the broker lent it.
        tries: tries that earlier deliveries of the task used up, and ``failing_s`` the seconds of trying again.
        looked_at: when its result was last looked at, by the monotonic clock; a cancelled one has one.
        permit: what the limits gave it before it started, until its first LM call takes it.
        cancelled: whether somebody cancelled it; its next LM call is refused then.
        over: whether it has ended; what still runs of it calls no LM.
        cache: how its LM calls share answers; None where they don't.
        asked: the calls that it made so far, by their digests, where it has a cache.
        unparsed: by their text, the answers that no adapter has parsed yet, where it has a cache.
        tally: what its LM calls came to.
        calls: its LM calls under way, so that a cancellation can end them.
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
    call_counts: Counter[str] = field(default_factory=Counter[str])
    unparsed: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    tally: Tally = field(default_factory=Tally)
    calls: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]])

    def remaining_s(self) -> float | None:
        """Seconds until the deadline, not below 0; None where there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.time())

    def take_permit(self) -> Permit | None:
        """Return what the limits gave it before it started, to whoever asks first."""
        permit, self.permit = self.permit, None
        return permit

    def deadline_error(self) -> DeadlineExceededError:
        """Return the error of one whose deadline is over."""
        return DeadlineExceededError(self.task_id, round(max(0.0, time.time() - (self.deadline or 0.0)), 3))

    async def within_deadline(self, awaited: Awaitable[T]) -> T:
        """Await something until the deadline.

        Raises:
            DeadlineExceededError: it came first.
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
        """Count the current task among the LM calls under way while its block runs."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self.calls.add(task)
        try:
            yield
        finally:
            self.calls.discard(task)


@contextmanager
def activate(scope: PredictionContext) -> Generator[PredictionContext]:
    """Lets everything that is called within it find the scope."""
    scope.has_ended = False
    try:
        # DSPy would have programs that were made asynchronous by it wait for one another, eight at a time.
        with dspy.context(**{_SETTING: scope, "async_max_workers": _ASYNC_WORKERS}):
            yield scope
    finally:
        scope.has_ended = True


def current_prediction() -> PredictionContext | None:
    """Return the scope of the prediction that the caller belongs to, None outside of one."""
    scope: PredictionContext | None = dspy.settings.get(_SETTING)
    return scope
