"""The Predictions service. A prediction is visible to the callers whose grant covers its session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import TypeVar

from celery import states

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.replay import find_differences, load_inputs, submit_again
from snakepit_bridge.client.results import TaskResult
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import (
    BridgeError,
    DecryptionError,
    PayloadLostError,
    PredictionNotReplayableError,
)
from snakepit_bridge.lm.captured_calls import read_captured_calls
from snakepit_bridge.process.home_loop import run_on_home_loop
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.outages import MAX_WAIT_S, retry_through_outages
from snakepit_bridge.variables.codec import encode_json
from workers.gateway.api import converters
from workers.gateway.api.chunk_pump import ChunkPump
from workers.gateway.api.lm_calls import lm_calls_message
from workers.gateway.api.submissions import Submission, enqueue_batch, group_into_batches
from workers.gateway.call import MAX_ID_LENGTH, ClientCall, require_name, require_seconds
from workers.gateway.errors import MalformedError, PredictionNotFoundError, TooLargeError, to_message
from workers.gateway.json_text import to_strict_json

T = TypeVar("T")

# Kombu's producers block; each thread has its own.
_THREADS = 16
_POLL_S = 30.0


class Predictions:
    """The operations on predictions.

    Args:
        fleet: the fleet.
        max_batch: maximum number of predictions in a batch.
        kept_s: seconds for which a prediction's session is recorded; at least as long as results are kept.
    """

    def __init__(self, fleet: Fleet, max_batch: int, kept_s: int = 86_400) -> None:
        self._fleet = fleet
        self._max_batch = max_batch
        self._kept_s = kept_s
        self._results = fleet.results
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="dspex-gateway")

    async def submit(self, request: pb.SubmitRequest, call: ClientCall) -> pb.Handle:
        """Enqueue one prediction."""
        submission = Submission.from_request(request, call)
        task_id = await self._run_in_thread(lambda: submission.enqueue(self._fleet, call))
        await self._record_sessions([(task_id, submission.session)])
        return pb.Handle(id=task_id)

    async def submit_batch(self, request: pb.SubmitBatchRequest, call: ClientCall) -> pb.SubmitBatchResponse:
        """Enqueue many predictions, sending those that differ only in their inputs as one batch.

        An error of one prediction is reported in its place.
        """
        if not request.requests:
            raise MalformedError("requests", "there are none")
        if len(request.requests) > self._max_batch:
            raise TooLargeError("batch", self._max_batch)
        parsed = [_parse_submission(submit_request, call) for submit_request in request.requests]
        batches = group_into_batches([submission for submission in parsed if isinstance(submission, Submission)])
        enqueued = await asyncio.gather(
            *(self._run_in_thread(partial(enqueue_batch, self._fleet, batch, call)) for batch in batches)
        )
        outcome_by_id = {id(submission): outcome for outcomes in enqueued for submission, outcome in outcomes}
        outcomes = [outcome_by_id[id(item)] if isinstance(item, Submission) else item for item in parsed]
        sessions = [
            (outcome, item.session)
            for outcome, item in zip(outcomes, parsed, strict=True)
            if isinstance(item, Submission) and isinstance(outcome, str)
        ]
        await self._record_sessions(sessions)
        return pb.SubmitBatchResponse(submitted=[_submitted_message(outcome) for outcome in outcomes])

    async def get(self, request: pb.PredictionRequest, call: ClientCall) -> pb.Prediction:
        """Return the state of a prediction."""
        outcome = await self.authorized_outcome(request.id, call)
        message = converters.prediction_message(request.id, outcome)
        if request.inputs and outcome.result is not None:
            with suppress(PayloadLostError):
                stored = await load_inputs(self._fleet.payloads, outcome.result)
                message.inputs_json = encode_json(to_strict_json(stored.inputs))
        return message

    async def list_lm_calls(self, request: pb.ListLMCallsRequest, call: ClientCall) -> pb.ListLMCallsResponse:
        """Return the LM calls of a prediction that has ended; one that failed is found by them, too."""
        task_id = require_name(request.id, "id", MAX_ID_LENGTH)
        found = await run_on_home_loop(read_captured_calls(self._fleet.payloads, task_id))
        if found is None:
            await self.authorized_outcome(task_id, call)
        elif not call.grant.covers(found.session):
            raise PredictionNotFoundError(task_id)
        return lm_calls_message(found)

    async def wait(self, request: pb.AwaitRequest, call: ClientCall) -> pb.Prediction:
        """Wait until a prediction ends or the timeout expires, and return its state."""
        outcome = await self.authorized_outcome(request.id, call)
        timeout_s = require_seconds(request.timeout_s, "timeout_s")
        if not outcome.ready:
            wait_s = call.bound_wait(timeout_s or call.remaining_s)
            outcome = await self._wait_until_final(request.id, wait_s, call)
        return converters.prediction_message(request.id, outcome)

    async def stream(self, request: pb.StreamRequest, call: ClientCall) -> AsyncGenerator[pb.PredictionEvent]:
        """Yield each new state of a prediction, the chunks of its output, and finally its result."""
        after = converters.parse_position(request.after, "chunk") or None
        outcome, last_state = await self.authorized_outcome(request.id, call), pb.PREDICTION_STATE_UNSPECIFIED
        async with aclosing(ChunkPump(self._fleet.chunks.open(request.id, after=after), call.draining)) as chunk_pump:
            while not call.draining.is_set():
                state = _pending_state(outcome)
                chunks = await chunk_pump.read(0.0 if state > last_state else _POLL_S)
                # An empty list is the only sign that all chunks were read: the prediction may have ended long before.
                if chunks == []:
                    break
                if chunks:
                    state = pb.PREDICTION_STATE_RUNNING
                if state > last_state:
                    last_state = state
                    yield pb.PredictionEvent(state=state)
                for chunk in chunks or ():
                    yield pb.PredictionEvent(piece=converters.chunk_message(chunk), position=chunk.position)
                if not chunks:
                    outcome = await self._outcome_in_time(request.id, call.bound_wait(MAX_WAIT_S))
        outcome = await self._outcome_in_time(request.id, call.bound_wait(MAX_WAIT_S))
        if outcome.ready:
            yield pb.PredictionEvent(ended=converters.prediction_message(request.id, outcome))

    async def cancel(self, request: pb.PredictionRequest, call: ClientCall) -> pb.Prediction:
        """Cancel a prediction unless it has ended, and return its state."""
        outcome = await self.authorized_outcome(request.id, call)
        if not outcome.ready:
            await self._fleet.handle(request.id).acancel(author=call.grant.name)
            outcome = await self._outcome(request.id)
        return converters.prediction_message(request.id, outcome)

    async def replay(self, request: pb.ReplayRequest, call: ClientCall) -> pb.ReplayResponse:
        """Make a prediction again, and return both when the repetition has ended or the timeout expires."""
        wait_s = call.remaining_s
        if request.HasField("timeout_s"):
            wait_s = require_seconds(request.timeout_s, "timeout_s")
        first = await self.authorized_outcome(request.id, call)
        if first.result is None:
            raise PredictionNotReplayableError(request.id)
        stored = await load_inputs(self._fleet.payloads, first.result)
        again_id = (await self._run_in_thread(lambda: submit_again(stored, self._fleet.submit))).id
        await self._record_sessions([(again_id, str(stored.provenance["session"]))])
        again = await self._wait_until_final(again_id, call.bound_wait(wait_s), call)
        differences = {} if again.result is None else find_differences(stored.outputs, again.result.outputs)
        return pb.ReplayResponse(
            inputs_json=encode_json(to_strict_json(stored.inputs)),
            first=converters.prediction_message(request.id, first),
            again=converters.prediction_message(again_id, again),
            differences=differences,
        )

    async def authorized_outcome(self, task_id: str, call: ClientCall) -> TaskResult:
        """Return a prediction's outcome, if the caller's grant covers its session.

        Raises:
            PredictionNotFoundError: it doesn't exist, or the grant doesn't cover its session, which looks the same.
        """
        require_name(task_id, "id", MAX_ID_LENGTH)
        owner = await self._fleet.connection.wait_bounded(self._fleet.connection.client.get(self._key(task_id)))
        outcome = await self._outcome(task_id)
        session = owner.decode() if isinstance(owner, bytes) else _recorded_session(outcome)
        if session is None or not call.grant.covers(session):
            raise PredictionNotFoundError(task_id)
        return outcome

    def close(self) -> None:
        """Shut down the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _wait_until_final(self, task_id: str, wait_s: float, call: ClientCall) -> TaskResult:
        """Wait until a prediction ends, for ``wait_s`` seconds or until the gateway drains; return its outcome."""
        until = time.monotonic() + wait_s
        waiting = asyncio.ensure_future(run_on_home_loop(self._results.wait(task_id, wait_s)))
        draining = asyncio.ensure_future(call.draining.wait())
        try:
            await asyncio.wait([waiting, draining], return_when=asyncio.FIRST_COMPLETED)
            error = waiting.exception() if waiting.done() else None
            if error is not None and not isinstance(error, BridgeError):
                raise error
            left_s = 0.0 if call.draining.is_set() else until - time.monotonic()
            return await self._outcome_in_time(task_id, left_s)
        finally:
            waiting.cancel()
            draining.cancel()
            await asyncio.gather(waiting, draining, return_exceptions=True)

    async def _outcome_in_time(self, task_id: str, wait_s: float) -> TaskResult:
        """Return how a prediction stands; an outage costs ``wait_s`` seconds, and at least one reply's timeout.

        Raises:
            StoreUnavailableError: it lasted.
        """
        # What is begun by then has its answer, or its error, in time.
        patience_s = wait_s - self._fleet.connection.timeout_s
        return await retry_through_outages(lambda: self._outcome(task_id), patience_s=patience_s)

    async def _outcome(self, task_id: str) -> TaskResult:
        """Return how a prediction stands, with its whole result where that was stored by reference."""
        outcome = await run_on_home_loop(self._results.outcome(task_id))
        if outcome.result is None:
            return outcome
        try:
            return replace(outcome, result=await self._fleet.payloads.load_result(outcome.result, task_id))
        except (PayloadLostError, DecryptionError) as exc:
            return TaskResult(states.FAILURE, error=exc)

    async def _record_sessions(self, owned: Sequence[tuple[str, str]]) -> None:
        """Record the session of each prediction.

        Args:
            owned: pairs of task id and session.
        """
        if owned:
            commands = [("SET", self._key(task_id), session, "EX", self._kept_s) for task_id, session in owned]
            await self._fleet.connection.send_each(commands)

    def _key(self, task_id: str) -> str:
        return FleetKeys(self._fleet.namespace).prediction_session(task_id)

    async def _run_in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, copy_context().run, work)


def _pending_state(outcome: TaskResult) -> pb.PredictionState:
    """Return the state of a prediction; unspecified if it has ended, since its last event reports that."""
    return pb.PREDICTION_STATE_UNSPECIFIED if outcome.ready else converters.prediction_message("", outcome).state


def _recorded_session(outcome: TaskResult) -> str | None:
    """Return the session in the provenance: of a prediction submitted elsewhere, it is known once it has succeeded."""
    return None if outcome.result is None else str(outcome.result.provenance.get("session"))


def _parse_submission(request: pb.SubmitRequest, call: ClientCall) -> Submission | BridgeError:
    try:
        return Submission.from_request(request, call)
    except BridgeError as exc:
        return exc


def _submitted_message(end: str | BridgeError) -> pb.Submitted:
    return pb.Submitted(handle=pb.Handle(id=end)) if isinstance(end, str) else pb.Submitted(error=to_message(end))
