"""The Predictions service: submit, await, cancel. A prediction is the business of those who may use its session."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TypeVar

from celery import states

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.task_result import TaskResult
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import BridgeError, PayloadLostError
from snakepit_bridge.process.home_loop import run_home
from workers.gateway.api import converters
from workers.gateway.api.chunk_pump import ChunkPump
from workers.gateway.api.submissions import Submission, enqueue_batch, group_into_batches
from workers.gateway.call import MAX_ID_LENGTH, ClientCall, require_name, require_seconds
from workers.gateway.errors import MalformedError, PredictionNotFoundError, TooLargeError, to_message

T = TypeVar("T")

# Kombu's producers block; each of these threads has one.
_THREADS = 16
_POLL_S = 30.0
_POSITION = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
_ANSWER_MARGIN_S = 0.1


class Predictions:
    """The operations on predictions.

    Args:
        fleet: the fleet.
        batch: how many a batch may hold.
        kept_s: seconds for which it is remembered whose a prediction is; no less than results are kept.
    """

    def __init__(self, fleet: Fleet, max_batch: int, kept_s: int = 86_400) -> None:
        self._fleet = fleet
        self._max_batch = max_batch
        self._kept_s = kept_s
        self._results = fleet.results
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="dspex-gateway")

    async def submit(self, request: pb.SubmitRequest, call: ClientCall) -> pb.Handle:
        """Enqueues one prediction."""
        order = Submission.from_request(request, call)
        task_id = await self._run_in_thread(lambda: order.enqueue(self._fleet, call))
        await self._record_sessions([(task_id, order.session)])
        return pb.Handle(id=task_id)

    async def submit_batch(self, request: pb.SubmitBatchRequest, call: ClientCall) -> pb.SubmitBatchResponse:
        """Enqueues many, those that have everything but their inputs in common together; what is wrong with one stands
        in its place.
        """
        if not request.requests:
            raise MalformedError("requests", "there are none")
        if len(request.requests) > self._max_batch:
            raise TooLargeError("batch", self._max_batch)
        orders = [_parse_submission(one, call) for one in request.requests]
        batches = group_into_batches([one for one in orders if isinstance(one, Submission)])
        enqueued = await asyncio.gather(
            *(self._run_in_thread(partial(enqueue_batch, self._fleet, some, call)) for some in batches)
        )
        sent = {id(order): end for ends in enqueued for order, end in ends}
        ends = [sent[id(one)] if isinstance(one, Submission) else one for one in orders]
        owned = [(end, one.session) for end, one in zip(ends, orders, strict=True) if isinstance(one, Submission)]
        await self._record_sessions([(end, session) for end, session in owned if isinstance(end, str)])
        return pb.SubmitBatchResponse(submitted=[_submitted_message(end) for end in ends])

    async def get(self, request: pb.PredictionRequest, call: ClientCall) -> pb.Prediction:
        """Returns how a prediction stands."""
        return converters.prediction_message(request.id, await self._authorized_outcome(request.id, call))

    async def wait(self, request: pb.AwaitRequest, call: ClientCall) -> pb.Prediction:
        """Returns a prediction when it has ended, or as it stands when the time is over."""
        outcome = await self._authorized_outcome(request.id, call)
        asked = require_seconds(request.timeout_s, "timeout_s")
        # What it is when the client's time is over has to reach the client.
        most_s = min(asked or call.remaining_s, max(0.0, call.remaining_s - _ANSWER_MARGIN_S))
        if not outcome.ready:
            outcome = await self._wait_until_final(request.id, most_s, call)
        return converters.prediction_message(request.id, outcome)

    async def stream(self, request: pb.StreamRequest, call: ClientCall) -> AsyncGenerator[pb.PredictionEvent]:
        """Yields each new state of a prediction and the pieces of its answer, and what it ended with."""
        after = _parse_position(request.after)
        outcome, told = await self._authorized_outcome(request.id, call), pb.PREDICTION_STATE_UNSPECIFIED
        async with aclosing(ChunkPump(self._fleet.pieces.of(request.id, after=after), call.draining)) as reading:
            while not call.draining.is_set():
                state = _pending_state(outcome)
                some = await reading.read(0.0 if state > told else _POLL_S)
                # Nothing else tells that all pieces were read: the prediction may have ended long before.
                if some == []:
                    break
                if some:
                    state = pb.PREDICTION_STATE_RUNNING
                if state > told:
                    told = state
                    yield pb.PredictionEvent(state=state)
                for piece in some or ():
                    yield pb.PredictionEvent(piece=converters.chunk_message(piece), position=piece.position)
                if not some:
                    outcome = await self._outcome(request.id)
        outcome = await self._outcome(request.id)
        if outcome.ready:
            yield pb.PredictionEvent(ended=converters.prediction_message(request.id, outcome))

    async def cancel(self, request: pb.PredictionRequest, call: ClientCall) -> pb.Prediction:
        """Cancels a prediction unless it has ended, and returns how it stands."""
        outcome = await self._authorized_outcome(request.id, call)
        if not outcome.ready:
            await self._fleet.handle(request.id).acancel()
            outcome = await self._outcome(request.id)
        return converters.prediction_message(request.id, outcome)

    def close(self) -> None:
        """Lets its threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _wait_until_final(self, task_id: str, wait_s: float, call: ClientCall) -> TaskResult:
        """Waits for the end no longer than that, nor than the gateway runs, and returns how it stands then."""
        waiting = asyncio.ensure_future(run_home(self._results.wait(task_id, wait_s)))
        draining = asyncio.ensure_future(call.draining.wait())
        try:
            await asyncio.wait([waiting, draining], return_when=asyncio.FIRST_COMPLETED)
            error = waiting.exception() if waiting.done() else None
            if error is not None and not isinstance(error, BridgeError):
                raise error
            return await self._outcome(task_id)
        finally:
            waiting.cancel()
            draining.cancel()
            await asyncio.gather(waiting, draining, return_exceptions=True)

    async def _outcome(self, task_id: str) -> TaskResult:
        """Return how a prediction stands, with its whole result where that was stored by reference."""
        outcome = await run_home(self._results.outcome(task_id))
        if outcome.result is None:
            return outcome
        try:
            return replace(outcome, result=await self._fleet.payloads.whole(outcome.result))
        except PayloadLostError as exc:
            return TaskResult(states.FAILURE, error=exc)

    async def _authorized_outcome(self, task_id: str, call: ClientCall) -> TaskResult:
        """Returns how a prediction stands to one who may know; others aren't told that it exists."""
        require_name(task_id, "id", MAX_ID_LENGTH)
        owner = await self._fleet.connection.bounded(self._fleet.connection.client.get(self._key(task_id)))
        outcome = await self._outcome(task_id)
        session = owner.decode() if isinstance(owner, bytes) else _recorded_session(outcome)
        if session is None or not call.grant.covers(session):
            raise PredictionNotFoundError(task_id)
        return outcome

    async def _record_sessions(self, owned: Sequence[tuple[str, str]]) -> None:
        """Remembers whose predictions these are, by id and session."""
        if owned:
            commands = [("SET", self._key(task_id), session, "EX", self._kept_s) for task_id, session in owned]
            await self._fleet.connection.send_each(commands)

    def _key(self, task_id: str) -> str:
        return f"{self._fleet.namespace}:{{t:{task_id}}}:session"

    async def _run_in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _pending_state(outcome: TaskResult) -> pb.PredictionState:
    """How a prediction that goes on stands; unspecified for one that has ended, which its last event tells."""
    return pb.PREDICTION_STATE_UNSPECIFIED if outcome.ready else converters.prediction_message("", outcome).state


def _parse_position(text: str) -> str | None:
    if text and _POSITION.fullmatch(text) is None:
        raise MalformedError("after", "it is the position of a piece that this prediction's stream sent, or empty")
    return text or None


def _recorded_session(outcome: TaskResult) -> str | None:
    """The session of a prediction that was submitted elsewhere is known once it has succeeded."""
    return None if outcome.result is None else str(outcome.result.provenance.get("session"))


def _parse_submission(request: pb.SubmitRequest, call: ClientCall) -> Submission | BridgeError:
    try:
        return Submission.from_request(request, call)
    except BridgeError as exc:
        return exc


def _submitted_message(end: str | BridgeError) -> pb.Submitted:
    return pb.Submitted(handle=pb.Handle(id=end)) if isinstance(end, str) else pb.Submitted(error=to_message(end))
