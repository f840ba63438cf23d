"""``tasks.predict_batch``: the Celery task that runs the predictions of many inputs, each with its own result.

A batch is only a transport format. Each input has its own task id, under which it is cancelled, awaited and committed
as a single prediction is; the batch itself has no result. It is acknowledged once all inputs are finished, so a crashed
worker loses none: on redelivery the unfinished inputs are sent as single messages, so that an input which crashes
workers doesn't affect the others.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from celery import Task, shared_task
from celery.exceptions import Reject, SoftTimeLimitExceeded

from snakepit_bridge.exceptions import (
    BridgeError,
    DataFormatError,
    DecryptionError,
    PredictionFailedError,
    StoreUnavailableError,
)
from snakepit_bridge.protocol.messages import PREDICT_BATCH, VERSION
from snakepit_bridge.redis.urls import mask_url
from tasks import DELIVERY
from tasks.batch import Batch, BatchResultBackend, Input, ResultCommitter, find_unfinished
from tasks.durability import confirm_stored
from tasks.newer_messages import leave_data_to_newer_workers, leave_to_newer_workers
from tasks.requests import Delivery, parse_delivery, parse_request
from tasks.requeue import InputRequeuer
from tasks.runtime import HasRuntime, Runtime


@shared_task(bind=True, name=PREDICT_BATCH, typing=False, ignore_result=True, throws=(BridgeError,), **DELIVERY)
async def predict_batch(self: Task, items: Sequence[tuple[str, Any]], program: str, **keywords: Any) -> None:
    """Run the predictions of a batch.

    Args:
        self: the task.
        items: task id and inputs of each prediction.
        program: reference of the program.
        **keywords: what all inputs share: the keywords of :meth:`PredictionRequest.keywords`.
    """
    runtime = cast(HasRuntime, self.app).runtime
    delivery = parse_delivery(self)
    if keywords.get("v", VERSION) != VERSION:
        await leave_to_newer_workers(keywords["v"], delivery)
    inputs = [Input(task_id, values) for task_id, values in items]
    try:
        for each in inputs:
            runtime.payloads.check_key(each.values)
        await _run_batch(self, runtime, delivery, inputs, program, keywords)
    except DecryptionError as exc:
        raise Reject(str(exc).rstrip("."), requeue=False) from exc
    except DataFormatError as exc:
        await leave_data_to_newer_workers(exc, delivery)
        raise Reject(str(exc).rstrip("."), requeue=False) from exc
    except StoreUnavailableError as exc:
        # Some results couldn't be stored: requeue the batch; inputs with a stored result are skipped then.
        raise Reject(str(exc), requeue=True) from exc


async def _run_batch(
    task: Task, runtime: Runtime, delivery: Delivery, inputs: list[Input], program: str, keywords: Mapping[str, Any]
) -> None:
    backend = cast(BatchResultBackend, task.backend)
    broker = mask_url(str(task.app.conf.broker_url or ""))
    requeuer = InputRequeuer(task.app, program, keywords, delivery, broker=broker)
    delivery = replace(delivery, checked_at=time.monotonic())
    pending = await find_unfinished(runtime, backend, inputs)
    if len(pending) < len(inputs):
        await confirm_stored(runtime, delivery.durability)
    if delivery.deliveries > 1:
        await requeuer.send_all(pending)
        return
    committer = ResultCommitter(backend, delivery.reply_channel, delivery.durability)
    try:
        request = parse_request(program, {}, keywords, namespace=runtime.payloads.namespace)
    except BridgeError as exc:
        await committer.commit_error_for_all(pending, exc)
        return
    try:
        await Batch(runtime, committer, request, delivery, requeuer, task.app).run(pending)
    except SoftTimeLimitExceeded as exc:
        limit = PredictionFailedError(program, type(exc).__name__, "the batch ran into the worker's time limit")
        await committer.commit_error_for_all(await find_unfinished(runtime, backend, pending), limit)
        raise
