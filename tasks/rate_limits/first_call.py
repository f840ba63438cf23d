"""A task's first LM call, which is admitted before the task starts."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from celery.exceptions import Ignore

from tasks.prediction_context import PredictionContext
from tasks.rate_limits.protocol import Estimate, Parked, Permit, RateLimiter

_log = logging.getLogger(__name__)


@asynccontextmanager
async def hold_first_permit(
    admission: RateLimiter, scope: PredictionContext, profile: str, inputs: Mapping[str, Any]
) -> AsyncGenerator[None]:
    """Lets the block run with leave for its first LM call, which is given back if the call isn't made.

    Raises:
        Ignore: the task was parked. Its message is in other hands, and this worker does nothing more about it.
        DeadlineExceededError: it had to wait in place, and its deadline came first.
        StoreUnavailableError: Redis is away and a limit concerns the task.
    """
    estimate = Estimate(sum(map(_count_characters, inputs.values())), "inputs")
    answer = await admission.before_start(scope, profile, estimate)
    if isinstance(answer, Parked):
        raise Ignore(f"prediction {scope.task_id} waits for the limits of '{profile}'")
    scope.permit = answer
    try:
        yield
    finally:
        unused = scope.take_permit()
        if unused is not None:
            await _give_back(admission, unused)


async def _give_back(admission: RateLimiter, permit: Permit) -> None:
    """Give a permit back; one that can't be runs out by itself, and costs no result."""
    try:
        await admission.give_back(permit)
    except Exception as exc:  # noqa: BLE001 - what only counts a prediction must not cost it
        _log.warning("A place among the limits of '%s' isn't given back, and runs out: %s", permit.profile, exc)


def _count_characters(value: object) -> int:
    return len(value) if isinstance(value, str) else len(repr(value))
