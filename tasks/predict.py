"""``tasks.predict``: the Celery task that makes one prediction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, cast

from celery import Task, shared_task
from celery.exceptions import Ignore, Reject

from snakepit_bridge.exceptions import (
    BridgeError,
    DataFormatError,
    DecryptionError,
    LMUnavailableError,
    StoreUnavailableError,
)
from snakepit_bridge.protocol.messages import PREDICT, VERSION, PredictionRequest, is_final
from snakepit_bridge.redis.outages import retry_through_outages
from tasks import DELIVERY
from tasks.durability import confirm_or_requeue
from tasks.judging import Judgement, judge, settle
from tasks.newer_messages import leave_data_to_newer_workers, leave_to_newer_workers
from tasks.prediction import encode_for_storage, run
from tasks.preparation import check_deadline, move_to_code_queue, prepare
from tasks.redelivery import redeliver_later
from tasks.requests import Delivery, decrypt_request, parse_delivery, parse_request
from tasks.runtime import HasRuntime, Runtime


# A named error is a result: it goes to the client, without a traceback in the worker's log. Inputs and outputs stay out
# of the log as well: Celery logs only the first characters of a result.
@shared_task(
    bind=True, name=PREDICT, typing=False, throws=(BridgeError,), resultrepr_maxsize=8, max_retries=None, **DELIVERY
)
async def predict(self: Task, inputs: Any, program: str | None = None, **keywords: Any) -> dict[str, Any]:
    """Run one prediction and return its :class:`~snakepit_bridge.protocol.messages.Result` as JSON.

    The keywords are those of :meth:`PredictionRequest.keywords`. ``inputs`` comes first, so that in a chain the
    previous result takes its place; where there is none, since the step is the first, the program gets no inputs. LM
    failures are retried, after a long pause by redelivery; every other error fails the task under its own name. A
    message whose inputs can't be decrypted goes to the dead-letter list, unchanged.
    """
    runtime = cast(HasRuntime, self.app).runtime
    delivery = parse_delivery(self, checked_at=time.monotonic())
    if keywords.get("v", VERSION) != VERSION:
        await leave_to_newer_workers(keywords["v"], delivery)
    inputs, program = _place_arguments(inputs, program, is_step=bool(keywords.get("chained")))
    request = parse_request(program, inputs, keywords, namespace=runtime.payloads.namespace)
    try:
        request = decrypt_request(runtime.payloads, request, delivery.task_id)
    except DecryptionError as exc:
        raise Reject(str(exc).rstrip("."), requeue=False) from exc
    try:
        return await _run(self, runtime, request, delivery)
    except DataFormatError as exc:
        await leave_data_to_newer_workers(exc, delivery)
        raise
    except LMUnavailableError as unavailable:
        if unavailable.again_in_s is None:
            raise
        retry = await redeliver_later(self, unavailable, delivery)
        raise retry from unavailable


def _place_arguments(inputs: Any, program: str | None, *, is_step: bool) -> tuple[Any, str]:
    """Return inputs and program of a message; a step of a canvas that is the first one has its program alone.

    Raises:
        BridgeError: it has no program.
    """
    if program is not None:
        return inputs, program
    if not (is_step and isinstance(inputs, str)):
        raise BridgeError("The message names no program. Its arguments are the inputs and the reference of a program.")
    return {}, inputs


async def _run(task: Task, runtime: Runtime, request: PredictionRequest, delivery: Delivery) -> dict[str, Any]:
    judgement = Judgement.find(task.request.headers or {})
    try:
        check_deadline(request, delivery)
        # The stored result is awaited only once it is needed: its lookup is pipelined with the reads of prepare().
        key = task.backend.get_key_for_task(delivery.task_id).decode()
        stored = runtime.fetch_result(key)
        prepared = await prepare(runtime, request, delivery)
        if is_final(await _load_result(runtime, key, stored, request)):
            # The first final result of a task counts; nothing more is stored.
            await runtime.rate_limiter.forget(delivery.task_id)
            await settle(runtime.judging, judgement, delivery.task_id)
            if delivery.is_repeated and runtime.journals is not None:
                await runtime.journals.remove(delivery.task_id)
            await confirm_or_requeue(runtime, delivery.durability)
            raise Ignore(f"prediction {delivery.task_id} is finished already")
        await retry_through_outages(
            lambda: move_to_code_queue(runtime, prepared.applied.bound, delivery), deadline=request.deadline
        )
        async with _quarantine(runtime, delivery):
            result = await run(runtime, prepared, request, delivery)
        if not request.evaluation:
            await judge(runtime.judging, task.app, judgement, delivery.task_id, result)
        if runtime.recording is not None:
            await runtime.recording.record(delivery.task_id, request, result)
    except BridgeError as exc:
        # It may have failed before its first LM call took the permit that was reserved for it.
        await runtime.rate_limiter.forget(delivery.task_id)
        if getattr(exc, "again_in_s", None) is None:
            await settle(runtime.judging, judgement, delivery.task_id, exc)
            if runtime.recording is not None:
                await runtime.recording.record_error(delivery.task_id, request, exc)
        raise
    except asyncio.CancelledError as exc:
        await settle(runtime.judging, judgement, delivery.task_id, exc)
        raise
    return await encode_for_storage(runtime, result, request)


def _quarantine(runtime: Runtime, delivery: Delivery) -> AbstractAsyncContextManager[None]:
    """Isolate a prediction that may have crashed workers; one that is delivered for the first time hasn't."""
    if not delivery.is_repeated:
        return nullcontext()
    return runtime.quarantine.admit(runtime.message_leases, delivery.task_id, delivery.deliveries, delivery.claim)


async def _load_result(
    runtime: Runtime, key: str, first: Awaitable[bytes | None], request: PredictionRequest
) -> bytes | None:
    """Return the stored result of the task; retry the lookup through an outage."""
    try:
        return await first
    except StoreUnavailableError:
        return await retry_through_outages(lambda: runtime.fetch_result(key), deadline=request.deadline)
