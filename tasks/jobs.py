"""``tasks.run_job``: the Celery task that runs an evaluation or an optimization."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from celery import Task, shared_task
from celery.exceptions import Ignore, Reject

from snakepit_bridge.exceptions import BridgeError, ConfigurationError, LMUnavailableError, StoreUnavailableError
from snakepit_bridge.protocol.messages import RUN_JOB, Result
from tasks import DELIVERY
from tasks.redelivery import redeliver_later
from tasks.requests import parse_delivery
from tasks.runtime import HasRuntime

# A requeued message is redelivered at once, possibly to this process.
_PAUSE_S = 1.0


@shared_task(
    bind=True, name=RUN_JOB, typing=False, throws=(BridgeError,), resultrepr_maxsize=8, max_retries=None, **DELIVERY
)
async def run_job(self: Task, job_id: str) -> dict[str, Any]:
    """Run a job whose record says what it is, and return its result as that of a prediction.

    It is run again by redelivery when its LM is unavailable for longer, and when Redis is away.
    """
    runtime, delivery = cast(HasRuntime, self.app).runtime, parse_delivery(self)
    if runtime.jobs is None:
        raise ConfigurationError("This worker runs no jobs.")
    try:
        if await runtime.ended(self.backend.get_key_for_task(delivery.task_id).decode()):
            raise Ignore(f"job {job_id} is finished already")
        return Result(await runtime.jobs.run(job_id, delivery), {}).encode()
    except LMUnavailableError as unavailable:
        if unavailable.again_in_s is None:
            raise
        retry = await redeliver_later(self, unavailable, delivery)
        raise retry from unavailable
    except StoreUnavailableError as exc:
        await asyncio.sleep(_PAUSE_S)
        raise Reject(type(exc).__name__, requeue=True) from exc
