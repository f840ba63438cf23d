"""A batch on a worker: one snapshot and one bound program for many inputs, each of which runs and ends by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from celery.states import FAILURE, SUCCESS

from snakepit_bridge.exceptions import BridgeError, LMUnavailableError
from snakepit_bridge.process.frames import under
from snakepit_bridge.protocol.messages import PredictionRequest
from snakepit_bridge.redis.outages import through_outages
from tasks.errors import translate_error
from tasks.prediction import Delivery, PreparedProgram, encode_for_storage, prepare, run
from tasks.routing import move_to_code_queue
from tasks.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a batch: its task, and what is asked, as it travelled."""

    task_id: str
    values: Any


class BatchResultBackend(Protocol):
    """Where the ends go."""

    def get_key_for_task(self, task_id: str) -> bytes:
        """Return the key of a task's result."""
        ...

    async def acommit(self, task_id: str, result: Any, state: str, *, reply_channel: str | None = None) -> bytes | None:
        """Commit a task's end, unless there is one already."""
        ...


@dataclass(frozen=True, slots=True)
class ResultCommitter:
    """The ends of a batch's inputs, each committed by itself and told to the client.

    Attributes:
        backend: where they are stored.
        replies: the channel on which the client wants to be told.
    """

    backend: BatchResultBackend
    reply_channel: str

    async def commit_result(self, one: Input, message: Any) -> None:
        """End an input with its result.

        Raises:
            StoreUnavailableError: it couldn't be stored.
        """
        await self._commit(one.task_id, message, SUCCESS)

    async def commit_error(self, one: Input, error: BridgeError) -> None:
        """End an input with an error.

        Raises:
            StoreUnavailableError: it couldn't be stored.
        """
        await self._commit(one.task_id, error, FAILURE)

    async def _commit(self, task_id: str, end: Any, state: str) -> None:
        await through_outages(lambda: self.backend.acommit(task_id, end, state, reply_channel=self.reply_channel))

    async def commit_error_for_all(self, inputs: Sequence[Input], error: BridgeError) -> None:
        """End inputs with one error.

        Raises:
            StoreUnavailableError: an end couldn't be stored.
        """
        await asyncio.gather(*(self.commit_error(one, error) for one in inputs))


class Requeuer(Protocol):
    """What gives an input another try, as a message of its own."""

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
        """Send a message for each of the inputs, through outages of the broker."""
        ...


class Batch:
    """The predictions of one batch.

    Args:
        runtime: the process's runtime.
        ends: where each end goes.
        request: what all inputs have in common.
        delivery: how the batch came here.
        again: what gives an input another try.
    """

    def __init__(
        self, runtime: Runtime, ends: ResultCommitter, request: PredictionRequest, delivery: Delivery, again: Requeuer
    ) -> None:
        self._runtime = runtime
        self._committer = ends
        self._request = request
        self._batch_delivery = delivery
        # An input can't be parked: the claim is that of all of them.
        self._delivery = replace(delivery, claim="")
        self._requeuer = again

    async def run(self, inputs: Sequence[Input]) -> None:
        """Make the predictions, and returns when each has its end or is on its way to another try.

        Raises:
            StoreUnavailableError: an end couldn't be stored.
            Ignore: the program executes code, and the batch is in other hands.
        """
        try:
            made = await prepare(self._runtime, self._request, self._delivery)
        except BridgeError as refused:
            await self._committer.commit_error_for_all(inputs, refused)
            return
        await through_outages(
            lambda: move_to_code_queue(self._runtime, made.applied.bound, self._batch_delivery),
            deadline=self._request.deadline,
        )
        running = [asyncio.create_task(under(each.task_id, self._run_input(made, each))) for each in inputs]
        try:
            ends = await asyncio.gather(*running, return_exceptions=True)
        finally:
            # Left early, by a time limit or a shutdown, it leaves nothing running.
            for task in running:
                task.cancel()
        for failed in (end for end in ends if end is not None):
            raise failed

    async def _run_input(self, made: PreparedProgram, one: Input) -> None:
        async with self._runtime.batch_room:
            delivery = replace(self._delivery, task_id=one.task_id)
            request = replace(self._request, inputs=one.values)
            try:
                result = await run(self._runtime, made, request, delivery)
                message = await encode_for_storage(self._runtime, result, request)
            except LMUnavailableError as away:
                await self._requeue(one, away)
            except BaseException as error:  # whatever it is, it is this input's end and no other's
                if _ends_batch(error):
                    raise
                bound = made.applied.bound
                refused = translate_error(error, program=bound.program.name, model=bound.choice.lm.model)
                await self._committer.commit_error(one, refused)
            else:
                await self._committer.commit_result(one, message)

    async def _requeue(self, one: Input, away: LMUnavailableError) -> None:
        """Another try comes as a message of its own, after a pause in which nothing is held here."""
        if away.again_in_s is None:
            await self._committer.commit_error(one, away)
            return
        await self._requeuer.send_all(
            [one],
            countdown=away.again_in_s,
            retries=1,
            tries=away.tries,
            failing_s=away.failing_s,
            deadline=self._request.deadline,
        )


def _ends_batch(error: BaseException) -> bool:
    """Return whether it is the batch that ends, by its time limit or its worker's end, and not one input."""
    if not isinstance(error, asyncio.CancelledError):
        return isinstance(error, GeneratorExit)
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def find_unfinished(runtime: Runtime, backend: BatchResultBackend, inputs: Sequence[Input]) -> list[Input]:
    """Return the inputs that have no end yet: a cancelled one has, and one that was run before.

    Raises:
        StoreUnavailableError: the result backend is away.
    """
    keys = {backend.get_key_for_task(one.task_id).decode(): one for one in inputs}
    ended = await through_outages(lambda: runtime.find_finished(list(keys))) if keys else set[str]()
    return [one for key, one in keys.items() if key not in ended]
