"""Try a task again later, by another delivery of its message, when its LM is unavailable for a while."""

from __future__ import annotations

import asyncio

from celery import Task
from celery.exceptions import Reject

from snakepit_bridge.exceptions import LMUnavailableError
from snakepit_bridge.protocol.messages import LM_FAILING_S, LM_TRIES
from snakepit_bridge.redis.outages import is_outage
from tasks.requests import Delivery
from tasks.spending import spending_headers
from tasks.telemetry import retry_headers


async def redeliver_later(task: Task, unavailable: LMUnavailableError, delivery: Delivery) -> Exception:
    """Send a task's message again, and return what the task raises for that.

    Args:
        task: the running task.
        unavailable: the failure, which says when the LM is called again.
        delivery: how the message was delivered.

    Raises:
        Reject: the broker is unavailable too; the message is requeued unchanged once it is back.
    """
    headers = {
        **(task.request.headers or {}),
        LM_TRIES: unavailable.tries,
        LM_FAILING_S: unavailable.failing_s,
        **spending_headers(delivery.task_id),
        **retry_headers(),
    }
    try:
        # Sent from a thread: a broker that doesn't answer would block the event loop.
        retry = await asyncio.to_thread(
            task.retry, exc=unavailable, countdown=round(unavailable.again_in_s or 0.0, 3), headers=headers, throw=False
        )
    except Exception as exc:
        if not is_outage(exc):
            raise
        raise Reject(type(exc).__name__, requeue=True) from exc
    # What Celery logs of it; workers.content_privacy leaves the provider's message out.
    retry.excs = f"{type(unavailable).__name__}: {unavailable.cause}: {unavailable.message}"
    return retry
