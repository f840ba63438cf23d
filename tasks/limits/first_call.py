"""A task's first LM call, which is admitted before the task starts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from celery.exceptions import Ignore

from tasks.limits.contract import Admission, Estimate, Parked
from tasks.scope import Scope


@asynccontextmanager
async def admitted(admission: Admission, scope: Scope, profile: str, inputs: Mapping[str, Any]) -> AsyncGenerator[None]:
    """Lets the block run with leave for its first LM call, which is given back if the call isn't made.

    Raises:
        Ignore: the task was parked. Its message is in other hands, and this worker does nothing more about it.
        DeadlineExceeded: it had to wait in place, and its deadline came first.
        StoreUnavailableError: Redis is away and a limit concerns the task.
    """
    estimate = Estimate(sum(map(_length, inputs.values())), "inputs")
    answer = await admission.before_start(scope, profile, estimate)
    if isinstance(answer, Parked):
        raise Ignore(f"prediction {scope.task_id} waits for the limits of '{profile}'")
    scope.permit = answer
    try:
        yield
    finally:
        unused = scope.take_permit()
        if unused is not None:
            await admission.give_back(unused)


def _length(value: object) -> int:
    return len(value) if isinstance(value, str) else len(repr(value))
