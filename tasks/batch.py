"""Run a batch: one snapshot and one bound program for many inputs, each of which has its own result."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from celery import Celery
from celery.states import FAILURE, SUCCESS

from snakepit_bridge.exceptions import BridgeError, DataFormatError, DecryptionError, LMUnavailableError
from snakepit_bridge.process.frames import mark_coroutine
from snakepit_bridge.protocol.messages import PredictionRequest
from snakepit_bridge.redis.outages import retry_through_outages
from snakepit_bridge.redis.replication import ON_PRIMARY, Replication
from snakepit_bridge.telemetry import TELEMETRY
from tasks.errors import translate_error
from tasks.prediction import encode_for_storage, run
from tasks.preparation import PreparedProgram, move_to_code_queue, needs_code_queue, prepare
from tasks.requests import Delivery, decrypt_request
from tasks.runtime import Runtime
from tasks.spending import track_spending
from tasks.telemetry import record_input

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a batch: its task id, and its input values as encoded in the message."""

    task_id: str
    values: Any


class BatchResultBackend(Protocol):
    """The result backend of a batch."""

    def get_key_for_task(self, task_id: str) -> bytes:
        """Return the key of a task's result."""
        ...

    async def acommit(
        self,
        task_id: str,
        result: Any,
        state: str,
        *,
        reply_channel: str | None = None,
        durability: Replication = ...,
    ) -> bytes | None:
        """Commit a task's final result, unless there is one already."""
        ...


@dataclass(frozen=True, slots=True)
class ResultCommitter:
    """Commits the result of each input of a batch, and notifies the client.

    Attributes:
        backend: where results are stored.
        reply_channel: the channel on which the client is notified.
        durability: what each commit waits for.
    """

    backend: BatchResultBackend
    reply_channel: str
    durability: Replication = ON_PRIMARY

    async def commit_result(self, item: Input, message: Any) -> None:
        """Commit an input's result.

        Raises:
            StoreUnavailableError: it couldn't be stored.
        """
        await self._commit(item.task_id, message, SUCCESS)

    async def commit_error(self, item: Input, error: BridgeError) -> None:
        """Commit an input's error.

        Raises:
            StoreUnavailableError: it couldn't be stored.
        """
        await self._commit(item.task_id, error, FAILURE)

    async def _commit(self, task_id: str, result: Any, state: str) -> None:
        ways: dict[str, Any] = {"reply_channel": self.reply_channel, "durability": self.durability}
        await retry_through_outages(lambda: self.backend.acommit(task_id, result, state, **ways))

    async def commit_error_for_all(self, inputs: Sequence[Input], error: BridgeError) -> None:
        """Commit the same error for several inputs.

        Raises:
            StoreUnavailableError: it couldn't be stored for one of them.
        """
        await asyncio.gather(*(self.commit_error(item, error) for item in inputs))


class Requeuer(Protocol):
    """Sends an input again, as a single prediction."""

    async def send_all(
        self,
        inputs: Sequence[Input],
        *,
        countdown: float = 0.0,
        retries: int = 0,
        tries: int = 0,
        failing_s: float = 0.0,
        deadline: float | None = None,
    ) -> None:
        """Send a message for each input, retrying through outages of the broker."""
        ...


class Batch:
    """The predictions of one batch.

    Args:
        runtime: the process's runtime.
        committer: commits each result.
        request: what all inputs share.
        delivery: how the batch was delivered.
        requeuer: sends an input again.
        app: the app by which predictions are judged; without it they aren't.
    """

    def __init__(
        self,
        runtime: Runtime,
        committer: ResultCommitter,
        request: PredictionRequest,
        delivery: Delivery,
        requeuer: Requeuer,
        app: Celery | None = None,
    ) -> None:
        self._runtime = runtime
        self._committer = committer
        self._request = request
        self._batch_delivery = delivery
        # A single input can't be parked: the lease is on the message of the whole batch.
        self._delivery = replace(delivery, claim="")
        self._requeuer = requeuer
        self._app = app

    async def run(self, inputs: Sequence[Input]) -> None:
        """Run the predictions; return once each has a result or was sent again.

        Raises:
            StoreUnavailableError: a result couldn't be stored.
            Ignore: the program executes code, and the batch was moved to the code queue.
        """
        prepared = await self._prepare()
        if prepared is not None:
            bound = prepared.applied.bound
            await retry_through_outages(
                lambda: move_to_code_queue(self._runtime, bound, self._batch_delivery), deadline=self._request.deadline
            )
        runs = [asyncio.create_task(mark_coroutine(each.task_id, self._trace_input(prepared, each))) for each in inputs]
        try:
            outcomes = await asyncio.gather(*runs, return_exceptions=True)
        finally:
            # After a time limit or a shutdown nothing may stay running.
            for task in runs:
                task.cancel()
        for exc in (outcome for outcome in outcomes if outcome is not None):
            raise exc

    async def _prepare(self) -> PreparedProgram | None:
        """Prepare what the inputs share; None if that fails, so that each input fails by itself, for its own arm."""
        try:
            return await prepare(self._runtime, self._request, self._delivery, key="")
        except BridgeError:
            return None

    async def _trace_input(self, prepared: PreparedProgram | None, item: Input) -> None:
        delivery = self._batch_delivery
        with (
            track_spending(item.task_id),
            record_input(item.task_id, self._request.program, delivery.attempt, delivery.queue, delivery.sent_at),
        ):
            await self._run_input(prepared, item)

    async def _run_input(self, prepared: PreparedProgram | None, item: Input) -> None:
        async with self._runtime.batch_slots:
            delivery = replace(self._delivery, task_id=item.task_id)
            try:
                request = decrypt_request(
                    self._runtime.payloads, replace(self._request, inputs=item.values), item.task_id
                )
                if prepared is None or prepared.is_staged:  # each input has its own arm
                    prepared = await prepare(self._runtime, request, delivery)
                    if needs_code_queue(self._runtime, prepared.applied.bound):
                        # As a message of its own it can be moved there, unlike the batch, whose other arms stay here.
                        await self._requeuer.send_all([item], deadline=self._request.deadline)
                        return
                if self._runtime.profiles[prepared.applied.bound.choice.profile].tier == "batch":
                    # As a message of its own it can be parked.
                    await self._requeuer.send_all([item], deadline=self._request.deadline)
                    return
                result = await run(self._runtime, prepared, request, delivery)
                # What a metric scores isn't traffic that judges sample.
                if self._runtime.judging is not None and self._app is not None and not request.evaluation:
                    await self._runtime.judging.sample(self._app, item.task_id, result)
                if self._runtime.recording is not None:
                    await self._runtime.recording.record(item.task_id, request, result)
                message = await encode_for_storage(self._runtime, result, request)
            except LMUnavailableError as exc:
                await self._requeue(item, exc)
            except BaseException as exc:  # it fails this input alone
                if _ends_batch(exc):
                    raise
                await self._commit_error(item, self._translate(exc, prepared))
            else:
                await self._committer.commit_result(item, message)

    def _translate(self, error: BaseException, prepared: PreparedProgram | None) -> BridgeError:
        if prepared is None:
            return translate_error(error, program=self._request.program, model="")
        bound = prepared.applied.bound
        return translate_error(error, program=bound.program.name, model=bound.choice.lm.model)

    async def _commit_error(self, item: Input, error: BridgeError) -> None:
        TELEMETRY.tracer.current_span().fail(type(error).__name__)
        if self._runtime.recording is not None:
            request = replace(self._request, inputs=item.values)
            with suppress(DecryptionError):
                request = decrypt_request(self._runtime.payloads, request, item.task_id)
            await self._runtime.recording.record_error(item.task_id, request, error)
        await self._committer.commit_error(item, error)

    async def _requeue(self, item: Input, error: LMUnavailableError) -> None:
        """Send an input again as a message of its own, due after the pause; fail it if no retry is allowed."""
        if error.again_in_s is None:
            await self._commit_error(item, error)
            return
        # As Celery does for a single prediction.
        _log.info("Input %s is tried again in %.3gs: %s", item.task_id, error.again_in_s, error.cause)
        await self._requeuer.send_all(
            [item],
            countdown=error.again_in_s,
            retries=1,
            tries=error.tries,
            failing_s=error.failing_s,
            deadline=self._request.deadline,
        )


def _ends_batch(error: BaseException) -> bool:
    """Return whether an exception ends the whole batch (time limit, worker shutdown, newer data) and not one input."""
    if not isinstance(error, asyncio.CancelledError):
        return isinstance(error, GeneratorExit | DataFormatError)
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def find_unfinished(runtime: Runtime, backend: BatchResultBackend, inputs: Sequence[Input]) -> list[Input]:
    """Return the inputs that have no final result yet; cancelled inputs have one.

    Raises:
        StoreUnavailableError: the result backend is unavailable.
    """
    keys = {backend.get_key_for_task(item.task_id).decode(): item for item in inputs}
    finished = await retry_through_outages(lambda: runtime.find_finished(list(keys))) if keys else set[str]()
    return [item for key, item in keys.items() if key not in finished]
