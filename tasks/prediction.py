"""One prediction, from its request to its result: requirement, snapshot, bound program, LM, outputs and provenance."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.exceptions import BridgeError, DeadlineExceeded, InputError, StoreUnavailableError
from snakepit_bridge.messages import Request, Result, is_result
from snakepit_bridge.programs.bound import BoundProgram
from snakepit_bridge.programs.codec import decode_inputs, encode_completions, encode_outputs
from snakepit_bridge.provenance import Provenance, Timings
from snakepit_bridge.replica import Served, Terms
from tasks.applying import Applied
from tasks.errors import named
from tasks.runtime import Runtime
from tasks.scope import Scope, entered


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a request came to this worker.

    Attributes:
        task_id: the Celery task.
        worker: this Celery node.
        attempt: 1 for the first try.
        sent_at: unix seconds by the client's clock, 0 if it didn't say.
        priority: the message's, as the broker counts: 0 is served first.
        queue: the queue that it came from.
        claim: the tag under which the broker lent the message.
    """

    task_id: str
    worker: str
    attempt: int
    sent_at: float
    priority: int = 0
    queue: str = ""
    claim: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What predictions of one program under one requirement have in common, so that a batch makes it once.

    Attributes:
        served: the snapshot that meets the requirement, and how old it is.
        applied: the program bound to it.
        snapshot_ms, bind_ms: how long the two took.
    """

    served: Served
    applied: Applied
    snapshot_ms: float
    bind_ms: float


async def run_prediction(runtime: Runtime, request: Request, delivery: Delivery) -> Result:
    """Returns the result of one prediction. The snapshot is taken once, and passed down as a value.

    Raises:
        BridgeError: one of its named kinds, whatever went wrong.
    """
    refuse_late(request, delivery)
    return await predicted(runtime, await prepared(runtime, request, delivery.worker), request, delivery)


async def prepared(runtime: Runtime, request: Request, worker: str) -> Prepared:
    """Takes the snapshot that a request requires and binds its program to it; the inputs don't matter.

    Raises:
        BridgeError: there is no such program or session, the requirement isn't met, or the two don't go together.
    """
    clock = _Clock()
    served = await runtime.sessions.serve(request.session, request.requirement, _terms(request))
    program = await runtime.registry.get(request.program)
    snapshot_ms = clock.lap_ms()
    runtime.applying.start(worker)
    applied = runtime.applying.apply(program, served.snapshot, request.requirement)
    await _keep(runtime, served, applied)
    return Prepared(served, applied, snapshot_ms, clock.lap_ms())


async def predicted(runtime: Runtime, made: Prepared, request: Request, delivery: Delivery) -> Result:
    """Returns the result of a request's inputs, run by a program that is bound already.

    Raises:
        BridgeError: one of its named kinds, whatever went wrong.
    """
    started, clock, bound = time.time(), _Clock(), made.applied.bound
    asked, program = taken(request), made.applied.bound.program.name
    inputs = decode_inputs(program, bound.inputs, asked)
    async with runtime.room(bound.choice.profile):
        refuse_late(request, delivery)
        with entered(_scope(made.applied, request, delivery)):
            prediction = await _call(bound, inputs, request, delivery)
    outputs, completions = encode_outputs(program, prediction), encode_completions(program, prediction)
    queued_ms = _ms(started - delivery.sent_at) if delivery.sent_at else 0.0
    timings = Timings(queued_ms, made.snapshot_ms, made.bind_ms, clock.lap_ms())
    usage = prediction.get_lm_usage()
    provenance = _provenance(made.applied, made.served, request, delivery, usage, started, timings)
    return Result(outputs, provenance.encode(), asked, completions)


def taken(request: Request) -> Mapping[str, Any]:
    """Returns a request's inputs; in a chain they are picked out of the previous result, or of a group's results.

    Raises:
        InputError: the previous result lacks a field that should be taken, or the inputs aren't an object.
    """
    inputs: Any = request.inputs
    if is_result(inputs):
        return _pick(request, inputs["outputs"], request.take or _by_name(inputs))
    if isinstance(inputs, list) and inputs and all(is_result(each) for each in inputs):
        wanted = request.take or _by_name(inputs[0])
        picked = [_pick(request, each["outputs"], wanted) for each in inputs]
        return {name: [each[name] for each in picked] for name in wanted}
    if not isinstance(inputs, dict):
        raise InputError(
            request.program, "inputs", f"they must be an object of named inputs, not {type(inputs).__name__}"
        )
    return inputs


def _by_name(result: Mapping[str, Any]) -> Mapping[str, str]:
    return {name: name for name in result["outputs"]}


def _pick(request: Request, outputs: Mapping[str, Any], wanted: Mapping[str, str]) -> dict[str, Any]:
    for name, output in wanted.items():
        if output not in outputs:
            raise InputError(request.program, name, f"the previous prediction has no output '{output}'", tuple(outputs))
    return {name: outputs[output] for name, output in wanted.items()}


def _scope(applied: Applied, request: Request, delivery: Delivery) -> Scope:
    program = applied.bound.program
    return Scope(
        delivery.task_id,
        applied.snapshot.session,
        program.name,
        program.version,
        applied.snapshot,
        request.deadline,
        delivery.priority,
        delivery.queue,
        delivery.claim,
    )


async def _call(bound: BoundProgram, inputs: Mapping[str, Any], request: Request, delivery: Delivery) -> Any:
    """Runs the program until the deadline; what it raises comes out under a name of ours."""
    left = None if request.deadline is None else max(0.0, request.deadline - time.time())
    bounds = asyncio.timeout(left)
    try:
        async with bounds:
            return await bound.acall(**inputs)
    except BridgeError:
        raise
    except Exception as error:
        if isinstance(error, TimeoutError) and bounds.expired():
            late = time.time() - (request.deadline or 0.0)
            raise DeadlineExceeded(delivery.task_id, round(late, 3)) from error
        raise named(error, program=bound.program.name, model=bound.choice.lm.model) from error


async def _keep(runtime: Runtime, served: Served, applied: Applied) -> None:
    """Keeps the snapshot for a replay; a task that its outage contract lets run without the store goes without."""
    try:
        await runtime.keep(applied.snapshot)
    except StoreUnavailableError:
        if not served.outage:
            raise


def _terms(request: Request) -> Terms:
    try:
        return Terms.of(request.max_staleness, request.outage)
    except (TypeError, ValueError) as unreadable:
        raise BridgeError(f"The request's terms can't be read: {unreadable}.") from None


def refuse_late(request: Request, delivery: Delivery) -> None:
    """Refuses a prediction that nobody has a use for any more.

    Raises:
        DeadlineExceeded: its deadline is over.
    """
    if request.deadline is not None and time.time() >= request.deadline:
        raise DeadlineExceeded(delivery.task_id, round(time.time() - request.deadline, 3))


def _provenance(
    applied: Applied,
    served: Served,
    request: Request,
    delivery: Delivery,
    usage: Mapping[str, Any] | None,
    started: float,
    timings: Timings,
) -> Provenance:
    bound, snapshot = applied.bound, applied.snapshot
    return Provenance(
        task_id=delivery.task_id,
        session=snapshot.session,
        token=str(snapshot.token),
        requirement=str(request.requirement),
        variables=bound.variables,
        program=bound.program.name,
        version=bound.program.version,
        digest=bound.program.digest,
        module=bound.module_name,
        model=bound.choice.lm.model,
        profile=bound.choice.profile,
        usage=usage or {},
        attempt=delivery.attempt,
        worker=delivery.worker,
        pid=os.getpid(),
        started_at=started,
        timings=timings,
        staleness_s=round(served.staleness_s, 3),
        outage=served.outage,
        refused=applied.refused,
    )


class _Clock:
    """Milliseconds since the last lap."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap_ms(self) -> float:
        now = time.perf_counter()
        lap, self._last = now - self._last, now
        return _ms(lap)


def _ms(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 3)
