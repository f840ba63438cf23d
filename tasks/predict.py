"""``tasks.predict``: the Celery task that makes one prediction."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any, cast

from celery import Task, shared_task
from celery.exceptions import Ignore

from snakepit_bridge.exceptions import BridgeError, ConfigurationError, LMUnavailableError
from snakepit_bridge.messages import DEFAULT_SESSION, FAIL, PREDICT, VERSION, Request, Requirement
from tasks.prediction import Delivery, run_prediction
from tasks.runtime import HasRuntime, Runtime

# A provider may ask for any pause; past this many seconds the task would rather fail and say so.
_LONGEST_BACKOFF_S = 60.0


# A named error is an answer: it goes to the client, and not with a traceback into the worker's log. Nor does what was
# asked and answered belong there: a few characters of a result are what Celery logs of it.
@shared_task(bind=True, name=PREDICT, typing=False, throws=(BridgeError,), resultrepr_maxsize=8)
async def predict(
    self: Task,
    inputs: Mapping[str, Any],
    program: str,
    *,
    v: int = VERSION,
    session: str = DEFAULT_SESSION,
    requirement: str = "latest",
    deadline: float | None = None,
    take: Mapping[str, str] | None = None,
    max_staleness: float | None = None,
    outage: str = FAIL,
) -> dict[str, Any]:
    """Makes one prediction and returns its :class:`~snakepit_bridge.messages.Result` as JSON.

    ``inputs`` comes first, so that in a chain the previous result takes its place. An LM that is down or overloaded is
    tried again after a pause; every other error ends the task under its own name.
    """
    if v != VERSION:
        raise ConfigurationError(f"The request has version {v}, this worker reads {VERSION}. Upgrade the older side.")
    runtime = cast(HasRuntime, self.app).runtime
    request = Request(program, inputs, session, _requirement(requirement), deadline, take, max_staleness, outage)
    delivery = _delivery(self)
    try:
        return await _run(runtime, request, delivery, self.backend.get_key_for_task(delivery.task_id))
    except LMUnavailableError as away:
        pause = _pause_s(runtime, away, delivery.attempt)
        if request.deadline is not None and time.time() + pause >= request.deadline:
            raise  # the next try would come too late
        raise self.retry(exc=away, countdown=pause, max_retries=runtime.attempts - 1) from away


def _delivery(task: Task) -> Delivery:
    asked: Any = task.request
    route: Mapping[str, Any] = asked.delivery_info or {}
    return Delivery(
        task_id=asked.id,
        worker=asked.hostname or "",
        attempt=asked.retries + 1,
        sent_at=float((asked.headers or {}).get("sent_at", 0.0)),
        priority=route.get("priority") or 0,
        queue=route.get("routing_key") or "",
        claim=str((asked.properties or {}).get("delivery_tag") or ""),
    )


async def _run(runtime: Runtime, request: Request, delivery: Delivery, result_key: bytes) -> dict[str, Any]:
    if await runtime.ended(result_key.decode()):
        # Nothing more is stored: the first final result of a task is the one that counts.
        raise Ignore(f"prediction {delivery.task_id} has ended already")
    return (await run_prediction(runtime, request, delivery)).encode()


def _requirement(text: str) -> Requirement:
    try:
        return Requirement.parse(text)
    except ValueError as unreadable:
        raise BridgeError(str(unreadable)) from None


def _pause_s(runtime: Runtime, away: LMUnavailableError, attempt: int) -> float:
    """Doubles with each attempt, with jitter so that tasks which failed together don't return together."""
    backoff = runtime.backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
    return min(max(backoff, away.retry_after_s), _LONGEST_BACKOFF_S)
