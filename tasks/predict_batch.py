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
from tasks.batch import Batch, EndBackend, Input, ResultCommitter, unfinished
from tasks.prediction import Delivery
from tasks.requests import delivery_of, request_of
from tasks.requeue import Singles
from tasks.runtime import HasRuntime, Runtime


@shared_task(bind=True, name=PREDICT_BATCH, typing=False, ignore_result=True, throws=(BridgeError,))
async def predict_batch(self: Task, items: Sequence[tuple[str, Any]], program: str, **said: Any) -> None:
    """Makes the predictions of a batch.

    Args:
        self: the task.
        items: for each input its task id and the inputs of one prediction.
        program: reference of the program.
        **said: what all have in common: the keywords of :meth:`PredictionRequest.keywords`.
    """
    runtime = cast(HasRuntime, self.app).runtime
    delivery = delivery_of(self)
    inputs = [Input(task_id, asked) for task_id, asked in items]
    try:
        await _batch(self, runtime, delivery, inputs, program, said)
    except StoreUnavailableError as away:
        # Ends that couldn't be stored are as good as none: the batch goes back, and what has ended is left out then.
        raise Reject(str(away), requeue=True) from away


async def _batch(
    task: Task, runtime: Runtime, delivery: Delivery, inputs: list[Input], program: str, said: Mapping[str, Any]
) -> None:
    backend = cast(EndBackend, task.backend)
    broker = masked(str(task.app.conf.broker_url or ""))
    singles = Singles(task.app, program, said, delivery, broker=broker)
    delivery = replace(delivery, looked_at=time.monotonic())
    left = await unfinished(runtime, backend, inputs)
    if delivery.deliveries > 1:
        await singles.send_through(left)
        return
    ends = ResultCommitter(backend, delivery.replies)
    try:
        request = request_of(program, {}, said, namespace=runtime.payloads.namespace)
    except BridgeError as refused:
        await ends.all(left, refused)
        return
    try:
        await Batch(runtime, ends, request, delivery, singles).run(left)
    except SoftTimeLimitExceeded as late:
        limit = PredictionFailedError(program, type(late).__name__, "the batch ran into the worker's time limit")
        await ends.all(await unfinished(runtime, backend, left), limit)
        raise
