"""The Predictions service: submit, await, cancel. A prediction is the business of those who may use its session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.results import Outcome, Results
from snakepit_bridge.exceptions import BridgeError, DeadlineExceeded, InputError
from snakepit_bridge.loop import run_home
from snakepit_bridge.messages import DEFAULT_SESSION
from snakepit_bridge.variables.codec import parse
from snakepit_bridge.wire.generated.dspex.fleet.v1 import fleet_pb2 as pb
from workers.gateway import values
from workers.gateway.call import Call, named, seconds
from workers.gateway.errors import MalformedError, NotGrantedError, PredictionNotFoundError, TooLargeError, described
from workers.gateway.tokens import Scope

T = TypeVar("T")

# Kombu's producers block; each of these threads has one.
_THREADS = 16
_PRIORITY, _URGENT = 5, 9
_LOOK_S = 30.0


class Predictions:
    """The operations on predictions.

    Args:
        fleet: the fleet.
        batch: how many a batch may hold.
        kept_s: seconds for which it is remembered whose a prediction is; no less than results are kept.
    """

    def __init__(self, fleet: Fleet, batch: int, kept_s: int = 86_400) -> None:
        self._fleet = fleet
        self._batch = batch
        self._kept_s = kept_s
        self._results = Results(fleet.app, fleet.connection)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="dspex-gateway")

    async def submit(self, request: pb.SubmitRequest, call: Call) -> pb.Handle:
        """Enqueues one prediction."""
        session = request.session or DEFAULT_SESSION
        if not call.grant.covers(session):
            raise NotGrantedError(call.grant.name, Scope.PREDICT, session)
        options = _options(request, call)
        inputs = _inputs(request)

        def enqueue() -> str:
            if not call.remaining_s:
                raise DeadlineExceeded("that was not enqueued", 0.0)
            return self._fleet.submit(request.program, inputs, session=session, **options).id

        task_id = await self._blocking(enqueue)
        await self._remember(task_id, session)
        return pb.Handle(id=task_id)

    async def submit_batch(self, request: pb.SubmitBatchRequest, call: Call) -> pb.SubmitBatchResponse:
        """Enqueues many; what is wrong with one stands in its place."""
        if not request.requests:
            raise MalformedError("requests", "there are none")
        if len(request.requests) > self._batch:
            raise TooLargeError("batch", self._batch)
        submitted = await asyncio.gather(*(self._submitted(one, call) for one in request.requests))
        return pb.SubmitBatchResponse(submitted=submitted)

    async def get(self, request: pb.PredictionRequest, call: Call) -> pb.Prediction:
        """Returns how a prediction stands."""
        return values.prediction(request.id, await self._mine(request.id, call))

    async def wait(self, request: pb.AwaitRequest, call: Call) -> pb.Prediction:
        """Returns a prediction when it has ended, or as it stands when the time is over."""
        outcome = await self._mine(request.id, call)
        asked = seconds(request.timeout_s, "timeout_s")
        most_s = min(asked or call.remaining_s, call.remaining_s)
        if not outcome.ready:
            outcome = await self._ended(request.id, most_s, call)
        return values.prediction(request.id, outcome)

    async def stream(self, request: pb.PredictionRequest, call: Call) -> AsyncGenerator[pb.PredictionEvent]:
        """Yields each new state of a prediction, and what it ended with."""
        outcome = await self._mine(request.id, call)
        told = 0
        while not outcome.ready and not call.draining.is_set():
            state = values.prediction(request.id, outcome).state
            if state != told:
                told = state
                yield pb.PredictionEvent(state=state)
            outcome = await self._ended(request.id, _LOOK_S, call)
        if outcome.ready:
            yield pb.PredictionEvent(ended=values.prediction(request.id, outcome))

    async def cancel(self, request: pb.PredictionRequest, call: Call) -> pb.Prediction:
        """Cancels a prediction unless it has ended, and returns how it stands."""
        outcome = await self._mine(request.id, call)
        if not outcome.ready:
            await self._blocking(self._fleet.handle(request.id).cancel)
            outcome = await run_home(self._results.outcome(request.id))
        return values.prediction(request.id, outcome)

    def close(self) -> None:
        """Lets its threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _submitted(self, request: pb.SubmitRequest, call: Call) -> pb.Submitted:
        try:
            return pb.Submitted(handle=await self.submit(request, call))
        except (BridgeError, ValueError) as wrong:
            return pb.Submitted(error=described(wrong))

    async def _ended(self, task_id: str, wait_s: float, call: Call) -> Outcome:
        """Waits for the end no longer than that, nor than the gateway runs, and returns how it stands then."""
        waiting = asyncio.ensure_future(run_home(self._results.wait(task_id, wait_s)))
        draining = asyncio.ensure_future(call.draining.wait())
        try:
            await asyncio.wait([waiting, draining], return_when=asyncio.FIRST_COMPLETED)
            error = waiting.exception() if waiting.done() else None
            if error is not None and not isinstance(error, BridgeError):
                raise error
            return await run_home(self._results.outcome(task_id))
        finally:
            waiting.cancel()
            draining.cancel()
            await asyncio.gather(waiting, draining, return_exceptions=True)

    async def _mine(self, task_id: str, call: Call) -> Outcome:
        """Returns how a prediction stands to one who may know; others aren't told that it exists."""
        named(task_id, "id", 128)
        owner = await self._fleet.connection.bounded(self._fleet.connection.client.get(self._key(task_id)))
        outcome = await run_home(self._results.outcome(task_id))
        session = owner.decode() if isinstance(owner, bytes) else _session(outcome)
        if session is None or not call.grant.covers(session):
            raise PredictionNotFoundError(task_id)
        return outcome

    async def _remember(self, task_id: str, session: str) -> None:
        client = self._fleet.connection.client
        await self._fleet.connection.bounded(client.set(self._key(task_id), session.encode(), ex=self._kept_s))

    def _key(self, task_id: str) -> str:
        return f"{self._fleet.namespace}:{{t:{task_id}}}:session"

    async def _blocking(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _session(outcome: Outcome) -> str | None:
    """The session of a prediction that was submitted elsewhere is known once it has succeeded."""
    return None if outcome.result is None else str(outcome.result.provenance.get("session"))


def _options(request: pb.SubmitRequest, call: Call) -> dict[str, Any]:
    if request.priority > _URGENT:
        raise MalformedError("priority", f"it is 1 to {_URGENT}, the most urgent, or 0 for {_PRIORITY}")
    deadline_s = seconds(request.deadline_s, "deadline_s")
    stale = seconds(request.max_staleness_s, "max_staleness_s") if request.HasField("max_staleness_s") else None
    # Keys of different clients have nothing to do with each other.
    key = f"{call.grant.name}/{request.idempotency_key}" if request.idempotency_key else None
    return {
        "at_least": values.token(request.at_least, "at_least"),
        "exactly": values.token(request.exactly, "exactly"),
        "deadline": deadline_s or None,
        "max_staleness": stale,
        "priority": request.priority or _PRIORITY,
        "idempotency_key": key,
    }


def _inputs(request: pb.SubmitRequest) -> Mapping[str, Any]:
    named(request.program, "program")
    try:
        inputs = parse(request.inputs_json or b"{}")
    except (ValueError, RecursionError) as wrong:
        raise InputError(request.program, "inputs", f"they aren't JSON: {wrong}") from wrong
    if not isinstance(inputs, dict):
        raise InputError(request.program, "inputs", "they must be a JSON object of input field to value")
    return cast("dict[str, Any]", inputs)
