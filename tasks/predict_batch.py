"""``tasks.predict_batch``: the Celery task that makes the predictions of many inputs, each with an end of its own.

The batch is only how they travel. Each input has its task id, under which it is cancelled, awaited and committed, as
if it had come alone; the batch itself has no result. It is acknowledged when all of its inputs have ended, so a worker
that dies loses none: whoever gets the batch then sends the unfinished ones out one by one, so that one input which
kills workers doesn't take the others along.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from celery import Task, shared_task
from celery.exceptions import Reject, SoftTimeLimitExceeded

from snakepit_bridge.exceptions import BridgeError, PredictionFailedError, StoreUnavailableError
from snakepit_bridge.protocol.messages import PREDICT_BATCH
from snakepit_bridge.redis.urls import masked
from tasks.batch import Batch, BatchResultBackend, Input, ResultCommitter, find_unfinished
from tasks.prediction import Delivery
from tasks.requests import parse_delivery, parse_request
from tasks.requeue import InputRequeuer
from tasks.runtime import HasRuntime, Runtime


@shared_task(bind=True, name=PREDICT_BATCH, typing=False, ignore_result=True, throws=(BridgeError,))
async def predict_batch(self: Task, items: Sequence[tuple[str, Any]], program: str, **keywords: Any) -> None:
    """Make the predictions of a batch.

    Args:
        self: the task.
        items: for each input its task id and the inputs of one prediction.
        program: reference of the program.
        **keywords: what all have in common: the keywords of :meth:`PredictionRequest.keywords`.
    """
    runtime = cast(HasRuntime, self.app).runtime
    delivery = parse_delivery(self)
    inputs = [Input(task_id, asked) for task_id, asked in items]
    try:
        await _run_batch(self, runtime, delivery, inputs, program, keywords)
    except StoreUnavailableError as away:
        # Ends that couldn't be stored are as good as none: the batch goes back, and what has ended is left out then.
        raise Reject(str(away), requeue=True) from away


async def _run_batch(
    task: Task, runtime: Runtime, delivery: Delivery, inputs: list[Input], program: str, keywords: Mapping[str, Any]
) -> None:
    backend = cast(BatchResultBackend, task.backend)
    broker = masked(str(task.app.conf.broker_url or ""))
    singles = InputRequeuer(task.app, program, keywords, delivery, broker=broker)
    delivery = replace(delivery, checked_at=time.monotonic())
    left = await find_unfinished(runtime, backend, inputs)
    if delivery.deliveries > 1:
        await singles.send_all(left)
        return
    ends = ResultCommitter(backend, delivery.reply_channel)
    try:
        request = parse_request(program, {}, keywords, namespace=runtime.payloads.namespace)
    except BridgeError as refused:
        await ends.commit_error_for_all(left, refused)
        return
    try:
        await Batch(runtime, ends, request, delivery, singles).run(left)
    except SoftTimeLimitExceeded as late:
        limit = PredictionFailedError(program, type(late).__name__, "the batch ran into the worker's time limit")
        await ends.commit_error_for_all(await find_unfinished(runtime, backend, left), limit)
        raise
