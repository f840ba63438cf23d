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
    """Acquire a permit for the first LM call of the block; return it if the call isn't made.

    Raises:
        Ignore: the task was parked; its message no longer belongs to this worker.
        DeadlineExceededError: the deadline passed while the task was waiting in this process.
        StoreUnavailableError: Redis is unavailable and a limit applies to the task.
    """
    estimate = Estimate(sum(map(_count_characters, inputs.values())), "inputs")
    permit = await admission.before_start(scope, profile, estimate)
    if isinstance(permit, Parked):
        raise Ignore(f"prediction {scope.task_id} waits for the limits of '{profile}'")
    scope.permit = permit
    try:
        yield
    finally:
        unused = scope.take_permit()
        if unused is not None:
            await _give_back(admission, unused)


async def _give_back(admission: RateLimiter, permit: Permit) -> None:
    """Return a permit; on failure it expires by itself, and the result is kept."""
    try:
        await admission.give_back(permit)
    except Exception as exc:  # noqa: BLE001 - accounting must not cost a result
        _log.warning("Can't return a permit for '%s'; it will expire: %s", permit.profile, exc)


def _count_characters(value: object) -> int:
    return len(value) if isinstance(value, str) else len(repr(value))
