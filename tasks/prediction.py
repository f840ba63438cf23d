"""Run one prediction, from its request to its result: snapshot, bound program, outputs and provenance."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from itertools import chain, count
from typing import Any

import dspy
from celery.exceptions import SoftTimeLimitExceeded

from snakepit_bridge.costs.usage import encode_by_profile, format_usd, sum_usage
from snakepit_bridge.delivery.payloads import is_reference
from snakepit_bridge.dspy_integration.process_settings import default_settings
from snakepit_bridge.evaluations.metric import PinnedMetric
from snakepit_bridge.exceptions import (
    BridgeError,
    DeadlineExceededError,
    PredictionCancelledError,
    PredictionFailedError,
    copy_error,
)
from snakepit_bridge.lm.captured_calls import CallCapture
from snakepit_bridge.process.frames import mark_coroutine
from snakepit_bridge.process.open_files import OPEN_FILES
from snakepit_bridge.programs.bound import BoundProgram
from snakepit_bridge.programs.codec import encode_completions, encode_outputs
from snakepit_bridge.programs.steps import StepRecorder
from snakepit_bridge.protocol.messages import PredictionRequest, Result, chunks_key
from snakepit_bridge.protocol.provenance import Provenance, Timings
from snakepit_bridge.redis.outages import MAX_WAIT_S, retry_through_outages
from snakepit_bridge.telemetry import TELEMETRY
from tasks.errors import find_bridge_error, merge_lm_failure, translate_error
from tasks.journal.journal import CallJournal
from tasks.journal.task_journal import keep_task_journal
from tasks.metrics import ScoredExample, Scorer, prepare_metric, score_prediction
from tasks.prediction_context import ContainedCoroutine, PredictionContext, activate
from tasks.preparation import LapTimer, PreparedProgram, check_deadline, prepare, to_ms
from tasks.rate_limits.admission import FirstPermit
from tasks.requests import Delivery, fetch_payloads, select_inputs, split_example
from tasks.response_cache.parsed import share_answers
from tasks.revisions import AppliedProgram
from tasks.runtime import Runtime
from tasks.spending import bind_spending
from tasks.streaming import ChunkWriter, stream_chunks
from tasks.subject import current_subject
from tasks.telemetry import record_program, record_result, record_start


async def run_prediction(runtime: Runtime, request: PredictionRequest, delivery: Delivery) -> Result:
    """Run one prediction and return its result. The snapshot is read once and passed down as a value.

    Raises:
        BridgeError: the prediction failed; the subclass says why.
    """
    check_deadline(request, delivery)
    return await run(runtime, await prepare(runtime, request, delivery), request, delivery)


async def run(runtime: Runtime, prepared: PreparedProgram, request: PredictionRequest, delivery: Delivery) -> Result:
    """Run a prepared program on a request's inputs and return the result.

    A program that failed because the process ran out of file descriptors is run again.

    Raises:
        BridgeError: the prediction failed; the subclass says why.
    """
    deliveries = chain((delivery,), (replace(delivery, attempt=attempt) for attempt in count(delivery.attempt + 1)))
    async with _keep_journal(runtime, prepared, request, delivery) as journal:
        return await OPEN_FILES.wait_for_files(lambda: _run_once(runtime, prepared, request, next(deliveries), journal))


def _keep_journal(
    runtime: Runtime, prepared: PreparedProgram, request: PredictionRequest, delivery: Delivery
) -> AbstractAsyncContextManager[CallJournal | None]:
    """Keep the journal of a prediction with what earlier deliveries recorded; None if its program keeps none."""
    may_be_parked = runtime.profiles.has_batch_tier
    if runtime.journals is None or not (prepared.applied.bound.keeps_journal or may_be_parked):
        return nullcontext()
    patience_s = 0.0 if prepared.served.outage else MAX_WAIT_S
    return keep_task_journal(
        runtime.journals,
        delivery,
        deadline=request.deadline,
        patience_s=patience_s,
        may_be_parked=may_be_parked,
    )


async def _run_once(
    runtime: Runtime,
    prepared: PreparedProgram,
    request: PredictionRequest,
    delivery: Delivery,
    journal: CallJournal | None,
) -> Result:
    started, clock, bound = time.time(), LapTimer(), prepared.applied.bound
    queued_ms = to_ms(started - delivery.sent_at) if delivery.sent_at else 0.0
    pending_inputs = retry_through_outages(lambda: fetch_payloads(runtime.payloads, request), deadline=request.deadline)
    fetched, labels = split_example(await pending_inputs)
    values, program = select_inputs(fetched, runtime.bounds), bound.program.name
    scorer = await _prepare_scorer(runtime, request, delivery)
    inputs = bound.inputs.decode(program, values)
    scope = _build_context(runtime, prepared.applied, request, delivery)
    if journal is not None:
        journal.begin_run()
        scope.journal = journal
    scope.capture = _begin_capture(runtime, scope)
    steps = StepRecorder() if request.trace else None
    # Its calls are made by the collector, under the provider's limits of batches.
    is_batched = runtime.profiles[bound.choice.profile].tier == "batch"
    with runtime.cancellations.track(scope):
        async with (
            nullcontext() if is_batched else FirstPermit(runtime.rate_limiter, scope, bound.choice, values),
            runtime.concurrency_slot(bound.choice.profile),
        ):
            check_deadline(request, delivery)
            if TELEMETRY.meter.enabled and delivery.attempt == 1 and not delivery.tries:
                record_start(program, prepared.applied.snapshot, prepared.served, delivery, runtime.sessions.replica)
            with default_settings():
                prediction = await _run_program(runtime, scope, bound.isolate(), inputs, request, delivery, steps)
                outputs, completions = encode_outputs(program, prediction), encode_completions(program, prediction)
                timings = Timings(queued_ms, prepared.snapshot_ms, prepared.bind_ms, clock.lap_ms())
                evaluation: Mapping[str, Any] = {}
                if scorer is not None:
                    scored = ScoredExample(values, labels, prediction, outputs)
                    evaluation = await score_prediction(scorer, runtime.cache, scope, bound, scored)
    usage = prediction.get_lm_usage()
    provenance = _build_provenance(prepared, request, delivery, scope, usage, started, timings)
    record_result(provenance)
    # Inputs that were passed by reference are stored by reference.
    stored_inputs = request.inputs if is_reference(request.inputs) and request.metric is None else values
    trace = [] if steps is None else steps.encode(program)
    return Result(outputs, provenance.encode(), stored_inputs, completions, trace=trace, evaluation=evaluation)


def _begin_capture(runtime: Runtime, scope: PredictionContext) -> CallCapture | None:
    """Have the commit of the prediction's end keep its LM calls, from this run on, if the worker captures them."""
    if not runtime.captures_lm_calls:
        return None
    capture = CallCapture(scope.task_id, scope.session, runtime.payloads.cipher)
    subject = current_subject.get()
    if subject is not None and subject.task_id == scope.task_id:
        subject.capture = capture
    return capture


async def _prepare_scorer(runtime: Runtime, request: PredictionRequest, delivery: Delivery) -> Scorer | None:
    """Return what scores the prediction; None if its request has no metric."""
    if request.metric is None:
        return None

    async def bind_judge(judging: PredictionRequest) -> BoundProgram:
        return (await prepare(runtime, judging, delivery, key="")).applied.bound

    return await prepare_metric(runtime.metrics, PinnedMetric.decode(request.metric), request, bind_judge)


async def encode_for_storage(runtime: Runtime, result: Result, request: PredictionRequest) -> dict[str, Any]:
    """Return a result as it is stored in the backend, after storing its large payloads.

    Raises:
        StoreUnavailableError: the outage of the store outlasted the retries.
    """
    return await retry_through_outages(lambda: runtime.payloads.encode_result(result, runtime.keep_s))


def _build_context(
    runtime: Runtime, applied: AppliedProgram, request: PredictionRequest, delivery: Delivery
) -> PredictionContext:
    program, token = applied.bound.program, str(applied.snapshot.token)
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
        payload=request.inputs if is_reference(request.inputs) else "",
        spending=bind_spending(delivery.task_id, program.name, applied.snapshot.session, token, runtime.profiles),
    )


async def _run_program(
    runtime: Runtime,
    scope: PredictionContext,
    bound: BoundProgram,
    inputs: Mapping[str, Any],
    request: PredictionRequest,
    delivery: Delivery,
    steps: StepRecorder | None,
) -> Any:
    """Run the program; if the request asks for streaming, write chunks, the last one before the result."""
    if not request.stream:
        return await _call_program(runtime, scope, bound, inputs, steps)
    key = chunks_key(runtime.payloads.namespace, delivery.task_id)
    waves = 0 if scope.journal is None else scope.journal.waves
    writer = ChunkWriter(
        runtime.results, key, delivery.attempt + delivery.deliveries - 1 + waves, runtime.payloads.cipher
    )
    try:
        with stream_chunks(bound, writer):
            return await _call_program(runtime, scope, bound, inputs, steps)
    finally:
        await writer.drain()


async def _call_program(
    runtime: Runtime,
    scope: PredictionContext,
    bound: BoundProgram,
    inputs: Mapping[str, Any],
    steps: StepRecorder | None,
) -> Any:
    """Call the program within the deadline, and translate its exceptions."""
    bounds = asyncio.timeout(scope.remaining_s())
    try:
        shared = nullcontext() if scope.cache is None else share_answers(runtime.cache, scope)
        with record_program(scope.program), activate(scope), shared:
            async with bounds:
                prediction: Any = await ContainedCoroutine(
                    mark_coroutine(scope.task_id, bound.acall(steps, **inputs)), scope.program
                )
    except Exception as exc:  # noqa: BLE001 - programs may raise anything
        error = _translate_failure(scope, bound, inputs, exc, timed_out=bounds.expired())
        raise error from (error.__cause__ if error is exc else exc)
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if isinstance(exc, SoftTimeLimitExceeded) or scope.is_cancelled or (task is not None and task.cancelling()):
            raise
        raise translate_error(exc, program=scope.program, model=bound.choice.lm.model) from exc
    swallowed = scope.tally.deferred or (None if isinstance(prediction, dspy.Prediction) else scope.tally.failure)
    if swallowed is not None:
        # The program swallowed an LM failure: it returned no prediction, or a call is to be retried by redelivery.
        raise copy_error(swallowed)
    return prediction


def _translate_failure(
    scope: PredictionContext, bound: BoundProgram, inputs: Mapping[str, Any], error: Exception, *, timed_out: bool
) -> BridgeError:
    """Return the fleet's error for an exception of a program."""
    bridge_error = find_bridge_error(error)
    if scope.tally.deferred is not None and not isinstance(
        bridge_error, (DeadlineExceededError, PredictionCancelledError)
    ):
        return copy_error(scope.tally.deferred)
    if bridge_error is not None:
        return bridge_error
    if isinstance(error, TypeError) and (missing := bound.inputs.missing_input_error(scope.program, inputs)):
        return missing
    if isinstance(error, TimeoutError) and timed_out:
        return scope.deadline_error()
    is_truncated = scope.tally.last_finish_reason == "length"
    raised = translate_error(error, program=scope.program, model=bound.choice.lm.model, is_truncated=is_truncated)
    return _attach_lm_failure(scope, raised)


def _attach_lm_failure(scope: PredictionContext, raised: BridgeError) -> BridgeError:
    """Return a program's error, or the LM failure that the program had swallowed before.

    BestOfN, Refine, Parallel and tool calls catch any exception, and the error that follows names no LM.
    """
    failure = scope.tally.failure
    if failure is None:
        return raised
    if isinstance(raised, PredictionFailedError):
        return merge_lm_failure(failure, raised)
    return copy_error(failure) if type(raised) is type(failure) else raised


def _build_provenance(
    prepared: PreparedProgram,
    request: PredictionRequest,
    delivery: Delivery,
    scope: PredictionContext,
    usage: Mapping[str, Any] | None,
    started: float,
    timings: Timings,
) -> Provenance:
    applied, served, by_profile = prepared.applied, prepared.served, scope.spending.close()
    bound, snapshot = applied.bound, applied.snapshot
    total = sum_usage(by_profile.values())
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
        replayed=0 if scope.journal is None else scope.journal.replayed,
        replayed_tools=0 if scope.journal is None else scope.journal.replayed_tools,
        unused=0 if scope.journal is None else scope.journal.unused,
        finish_reasons=dict(scope.tally.finish_reasons),
        packages=bound.packages,
        dropped=dict(scope.tally.dropped),
        cost_usd=None if total.unpriced_calls else format_usd(total.cost_pico),
        lm_usage=encode_by_profile(by_profile),
        arms=[arm.encode() for arm in prepared.arms],
        trace_id=(TELEMETRY.tracer.current_ids() or ("",))[0],
    )
