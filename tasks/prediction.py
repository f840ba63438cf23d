"""One prediction, from its request to its result: requirement, snapshot, bound program, LM, outputs and provenance."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import dspy
from celery.exceptions import SoftTimeLimitExceeded

from snakepit_bridge.delivery.payloads import is_reference
from snakepit_bridge.dspy_integration.process_settings import default_settings
from snakepit_bridge.exceptions import (
    BridgeError,
    DeadlineExceededError,
    PredictionCancelledError,
    PredictionFailedError,
    StoreUnavailableError,
    fresh_error,
)
from snakepit_bridge.process.frames import under
from snakepit_bridge.process.open_files import OPEN_FILES
from snakepit_bridge.programs.bound import BoundProgram
from snakepit_bridge.programs.codec import encode_completions, encode_outputs
from snakepit_bridge.protocol.messages import PredictionRequest, Result, pieces_key
from snakepit_bridge.protocol.provenance import Provenance, Timings
from snakepit_bridge.redis.outages import through_outages
from snakepit_bridge.snapshots.freshness import FreshnessPolicy, ServedSnapshot
from tasks.containment import ContainedCoroutine
from tasks.errors import find_bridge_error, merge_lm_failure, translate_error
from tasks.prediction_context import PredictionContext, activate
from tasks.rate_limits.first_call import hold_first_permit
from tasks.request_inputs import fetch_payloads, select_inputs
from tasks.response_cache.parsed import share_answers
from tasks.revisions import AppliedProgram
from tasks.runtime import Runtime
from tasks.streaming import ChunkWriter, stream_chunks


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a request came to this worker.

    Attributes:
        task_id: the Celery task.
        worker: this Celery node.
        attempt: 1 for the first try.
        sent_at: unix seconds by the client's clock, 0 if it didn't say.
        priority: the message's: 0 to 9, the most urgent.
        queue: the queue that it came from.
        claim: the tag under which the broker lent the message.
        deliveries: 1, and one more for each worker that died with the message.
        replies: the channel on which the client wants to be told of the end; empty if it named none.
        tries: tries of an LM call that earlier attempts used up, and ``failing_s`` the seconds of trying again.
        looked_at: when it was last known to be wanted, by the monotonic clock.
    """

    task_id: str
    worker: str
    attempt: int
    sent_at: float
    priority: int = 0
    queue: str = ""
    claim: str = ""
    deliveries: int = 1
    reply_channel: str = ""
    tries: int = 0
    failing_s: float = 0.0
    checked_at: float = float("-inf")


@dataclass(frozen=True, slots=True)
class PreparedProgram:
    """What predictions of one program under one requirement have in common, so that a batch makes it once.

    Attributes:
        served: the snapshot that meets the requirement, and how old it is.
        applied: the program bound to it.
        snapshot_ms, bind_ms: how long the two took.
    """

    served: ServedSnapshot
    applied: AppliedProgram
    snapshot_ms: float
    bind_ms: float


async def run_prediction(runtime: Runtime, request: PredictionRequest, delivery: Delivery) -> Result:
    """Return the result of one prediction. The snapshot is taken once, and passed down as a value.

    Raises:
        BridgeError: one of its named kinds, whatever went wrong.
    """
    check_deadline(request, delivery)
    return await run(runtime, await prepare(runtime, request, delivery), request, delivery)


async def prepare(runtime: Runtime, request: PredictionRequest, delivery: Delivery) -> PreparedProgram:
    """Take the snapshot that a request requires and bind its program to it; the inputs don't matter.

    An outage of the store is waited out, unless the request's contract says that it may run without.

    Raises:
        BridgeError: there is no such program or session, the requirement isn't met, or the two don't go together.
        DeadlineExceededError: the store was away until the deadline.
    """
    try:
        return await through_outages(
            lambda: OPEN_FILES.wait_for_files(lambda: _prepare_once(runtime, request, delivery.worker)),
            deadline=request.deadline,
        )
    except StoreUnavailableError:
        check_deadline(request, delivery)
        raise


async def _prepare_once(runtime: Runtime, request: PredictionRequest, worker: str) -> PreparedProgram:
    clock = _LapTimer()
    served = await runtime.sessions.serve(
        request.session, request.requirement, _parse_freshness_policy(runtime, request)
    )
    program = await runtime.registry.get(request.program)
    snapshot_ms = clock.lap_ms()
    runtime.applying.start(worker)
    applied = await runtime.applying.apply(program, served.snapshot, request.requirement)
    await _keep_snapshot(runtime, served, applied)
    return PreparedProgram(served, applied, snapshot_ms, clock.lap_ms())


async def run(runtime: Runtime, prepared: PreparedProgram, request: PredictionRequest, delivery: Delivery) -> Result:
    """Return the result of a request's inputs, run by a program that is bound already.

    A program that failed since its process had no open file left for it is run again.

    Raises:
        BridgeError: one of its named kinds, whatever went wrong.
    """
    attempts = count(delivery.attempt)
    return await OPEN_FILES.wait_for_files(
        lambda: _run_once(runtime, prepared, request, replace(delivery, attempt=next(attempts)))
    )


async def _run_once(
    runtime: Runtime, prepared: PreparedProgram, request: PredictionRequest, delivery: Delivery
) -> Result:
    started, clock, bound = time.time(), _LapTimer(), prepared.applied.bound
    arriving = through_outages(lambda: fetch_payloads(runtime.payloads, request), deadline=request.deadline)
    asked, program = select_inputs(await arriving, runtime.bounds), bound.program.name
    inputs = bound.inputs.decode(program, asked)
    scope = _build_context(prepared.applied, request, delivery)
    with runtime.running.track(scope):
        async with (
            hold_first_permit(runtime.admission, scope, bound.choice.profile, asked),
            runtime.concurrency_slot(bound.choice.profile),
        ):
            check_deadline(request, delivery)
            with default_settings():
                prediction = await _run_program(runtime, scope, bound.for_one_call(), inputs, request, delivery)
    outputs, completions = encode_outputs(program, prediction), encode_completions(program, prediction)
    queued_ms = _ms(started - delivery.sent_at) if delivery.sent_at else 0.0
    timings = Timings(queued_ms, prepared.snapshot_ms, prepared.bind_ms, clock.lap_ms())
    usage = prediction.get_lm_usage()
    provenance = _build_provenance(prepared.applied, prepared.served, request, delivery, scope, usage, started, timings)
    # What came by reference is kept by reference.
    kept = request.inputs if is_reference(request.inputs) else asked
    return Result(outputs, provenance.encode(), kept, completions)


async def encode_for_storage(runtime: Runtime, result: Result, request: PredictionRequest) -> dict[str, Any]:
    """Return the form in which a result is stored; what goes beside it is there by then, through outages.

    Raises:
        StoreUnavailableError: the store stayed away.
    """
    return await through_outages(lambda: runtime.payloads.message(result, runtime.keep_s))


def _build_context(applied: AppliedProgram, request: PredictionRequest, delivery: Delivery) -> PredictionContext:
    program = applied.bound.program
    return PredictionContext(
        delivery.task_id,
        applied.snapshot.session,
        program.name,
        program.version,
        applied.snapshot,
        request.deadline,
        delivery.priority,
        delivery.queue,
        delivery.claim,
        delivery.tries,
        delivery.failing_s,
        delivery.checked_at,
        cache=program.spec.cache,
    )


async def _run_program(
    runtime: Runtime,
    scope: PredictionContext,
    bound: BoundProgram,
    inputs: Mapping[str, Any],
    request: PredictionRequest,
    delivery: Delivery,
) -> Any:
    """Run the program; if the request wants it, whoever follows gets its answer in pieces, the last before the end."""
    if not request.stream:
        return await _call_program(runtime, scope, bound, inputs)
    key = pieces_key(runtime.payloads.namespace, delivery.task_id)
    writer = ChunkWriter(runtime.results, key, delivery.attempt + delivery.deliveries - 1)
    try:
        with stream_chunks(bound, writer):
            return await _call_program(runtime, scope, bound, inputs)
    finally:
        await writer.drain()


async def _call_program(
    runtime: Runtime, scope: PredictionContext, bound: BoundProgram, inputs: Mapping[str, Any]
) -> Any:
    """Run the program until the deadline; what it raises comes out under a name of ours."""
    bounds = asyncio.timeout(scope.remaining_s())
    try:
        with activate(scope), share_answers(runtime.cache, scope):
            async with bounds:
                prediction: Any = await ContainedCoroutine(under(scope.task_id, bound.acall(**inputs)), scope.program)
    except Exception as error:  # noqa: BLE001 - whatever a program raises has a name of ours
        raised = _translate_failure(scope, bound, inputs, error, late=bounds.expired())
        raise raised from (raised.__cause__ if raised is error else error)
    except asyncio.CancelledError as cancelled:
        task = asyncio.current_task()
        if (
            isinstance(cancelled, SoftTimeLimitExceeded)
            or scope.is_cancelled
            or (task is not None and task.cancelling())
        ):
            raise
        raise translate_error(cancelled, program=scope.program, model=bound.choice.lm.model) from cancelled
    swallowed = scope.tally.deferred or (None if isinstance(prediction, dspy.Prediction) else scope.tally.failure)
    if swallowed is not None:
        # Somebody on the way took the LM's failure for an answer. It is none; a call for later is still to be prepared.
        raise fresh_error(swallowed)
    return prediction


def _translate_failure(
    scope: PredictionContext, bound: BoundProgram, inputs: Mapping[str, Any], error: Exception, *, late: bool
) -> BridgeError:
    """Return the error of ours for what a program raised."""
    mine = find_bridge_error(error)
    if scope.tally.deferred is not None and not isinstance(mine, (DeadlineExceededError, PredictionCancelledError)):
        return fresh_error(scope.tally.deferred)
    if mine is not None:
        return mine
    if isinstance(error, TypeError) and (missing := bound.inputs.missing(scope.program, inputs)):
        return missing
    if isinstance(error, TimeoutError) and late:
        return scope.deadline_error()
    truncated = scope.tally.last_finish_reason == "length"
    raised = translate_error(error, program=scope.program, model=bound.choice.lm.model, is_truncated=truncated)
    return _attach_lm_failure(scope, raised)


def _attach_lm_failure(scope: PredictionContext, raised: BridgeError) -> BridgeError:
    """What a program raised, or the LM's failure that it had caught before and that it went on without.

    BestOfN, Refine, Parallel and a tool's caller catch any exception, and what comes of it names no LM.
    """
    failure = scope.tally.failure
    if failure is None:
        return raised
    if isinstance(raised, PredictionFailedError):
        return merge_lm_failure(failure, raised)
    return fresh_error(failure) if type(raised) is type(failure) else raised


async def _keep_snapshot(runtime: Runtime, served: ServedSnapshot, applied: AppliedProgram) -> None:
    """Keep the snapshot for a replay; a task that its outage contract lets run without the store goes without."""
    try:
        await runtime.keep(applied.snapshot)
    except StoreUnavailableError:
        if not served.outage:
            raise


def _parse_freshness_policy(runtime: Runtime, request: PredictionRequest) -> FreshnessPolicy:
    try:
        return FreshnessPolicy.of(request.max_staleness, request.outage, runtime.outage)
    except (TypeError, ValueError) as unreadable:
        raise BridgeError(f"The request's terms can't be read: {unreadable}.") from None


def check_deadline(request: PredictionRequest, delivery: Delivery) -> None:
    """Refuse a prediction that nobody has a use for any more.

    Raises:
        DeadlineExceededError: its deadline is over.
    """
    if request.deadline is not None and time.time() >= request.deadline:
        raise DeadlineExceededError(delivery.task_id, round(time.time() - request.deadline, 3))


def _build_provenance(
    applied: AppliedProgram,
    served: ServedSnapshot,
    request: PredictionRequest,
    delivery: Delivery,
    scope: PredictionContext,
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
        answered=dict(scope.tally.answered_calls),
        failed_tries=delivery.tries + scope.tally.failed_tries,
        cached=scope.tally.cache_hits,
        shared=scope.tally.shared_answers,
        finish_reasons=dict(scope.tally.finish_reasons),
        packages=bound.packages,
        dropped=dict(scope.tally.dropped),
    )


class _LapTimer:
    """Milliseconds since the last lap."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap_ms(self) -> float:
        now = time.perf_counter()
        lap, self._last = now - self._last, now
        return _ms(lap)


def _ms(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 3)
