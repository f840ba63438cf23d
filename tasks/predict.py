"""``tasks.predict``: the Celery task that makes one prediction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, cast

from celery import Task, shared_task
from celery.exceptions import Ignore, Reject

from snakepit_bridge.exceptions import BridgeError, LMUnavailableError, StoreUnavailableError
from snakepit_bridge.protocol.messages import LM_FAILING_S, LM_TRIES, PREDICT, PredictionRequest
from snakepit_bridge.redis.outages import is_outage, through_outages
from tasks.prediction import Delivery, check_deadline, encode_for_storage, prepare, run
from tasks.requests import parse_delivery, parse_request
from tasks.routing import move_to_code_queue
from tasks.runtime import HasRuntime, Runtime, is_final


# A named error is an answer: it goes to the client, and not with a traceback into the worker's log. Nor does what was
# asked and answered belong there: a few characters of a result are what Celery logs of it.
@shared_task(bind=True, name=PREDICT, typing=False, throws=(BridgeError,), resultrepr_maxsize=8, max_retries=None)
async def predict(self: Task, inputs: Any, program: str, **keywords: Any) -> dict[str, Any]:
    """Make one prediction and returns its :class:`~snakepit_bridge.protocol.messages.Result` as JSON.

    The keywords are those of :meth:`PredictionRequest.keywords`. ``inputs`` comes first, so that in a chain the
    previous result takes its place. An LM that is down or overloaded is tried again, after a long pause by another
    delivery; every other error ends the task under its own name.
    """
    runtime = cast(HasRuntime, self.app).runtime
    request, delivery = (
        parse_request(program, inputs, keywords, namespace=runtime.payloads.namespace),
        parse_delivery(self),
    )
    try:
        return await _run(runtime, request, delivery, self.backend.get_key_for_task(delivery.task_id))
    except LMUnavailableError as away:
        if away.again_in_s is None:
            raise
        headers = {**(self.request.headers or {}), LM_TRIES: away.tries, LM_FAILING_S: away.failing_s}
        try:
            # Sent from a thread: a broker that doesn't answer would hold up the loop and all who are on it.
            again = await asyncio.to_thread(
                self.retry, exc=away, countdown=away.again_in_s, headers=headers, throw=False
            )
        except Exception as exc:
            if not is_outage(exc):
                raise
            # The broker is away as well: the message goes back as it is, once it can.
            raise Reject(type(exc).__name__, requeue=True) from exc
        raise again from away


async def _run(runtime: Runtime, request: PredictionRequest, delivery: Delivery, result_key: bytes) -> dict[str, Any]:
    try:
        check_deadline(request, delivery)
        # What was found is awaited only once it is needed, and shares its way with what preparing asks for.
        checked_at, key = time.monotonic(), result_key.decode()
        found = runtime.fetch_result(key)
        made = await prepare(runtime, request, delivery)
        if is_final(await _load_result(runtime, key, found, request)):
            # Nothing more is stored: the first final result of a task is the one that counts.
            await runtime.admission.forget(delivery.task_id)
            raise Ignore(f"prediction {delivery.task_id} has ended already")
        await through_outages(
            lambda: move_to_code_queue(runtime, made.applied.bound, delivery), deadline=request.deadline
        )
        async with runtime.suspects.admit(runtime.claims, delivery.task_id, delivery.deliveries, delivery.claim):
            result = await run(runtime, made, request, replace(delivery, checked_at=checked_at))
    except BridgeError:
        # It may have ended before it could take what the limits reserved for it.
        await runtime.admission.forget(delivery.task_id)
        raise
    return await encode_for_storage(runtime, result, request)


async def _load_result(
    runtime: Runtime, key: str, first: Awaitable[bytes | None], request: PredictionRequest
) -> bytes | None:
    """Return what is stored of the task; in an outage it is looked up again."""
    try:
        return await first
    except StoreUnavailableError:
        return await through_outages(lambda: runtime.fetch_result(key), deadline=request.deadline)
