"""What a worker records of the messages and predictions that it processes: their spans, and their metrics."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from celery.states import FAILURE, IGNORED, READY_STATES, REVOKED, SUCCESS

from snakepit_bridge.protocol.messages import PREDICT, PROGRAM, RUN_JOB, SENT_AT
from snakepit_bridge.protocol.provenance import Provenance
from snakepit_bridge.snapshots.freshness import ServedSnapshot
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.telemetry import TELEMETRY, Span
from snakepit_bridge.telemetry.instruments import Attributes
from snakepit_bridge.telemetry.metrics import (
    CACHE_HITS,
    CACHE_SHARED,
    IN_FLIGHT,
    JOURNAL_REPLAYED,
    LATENCY,
    MESSAGES_CONSUMED,
    PREDICTIONS,
    PROCESS_DURATION,
    PROGRAM_DURATION,
    REVISION_AGE,
    STALENESS,
    START_LATENCY,
)
from tasks.activity import ACTIVITY
from tasks.prediction_log import PREDICTION_LOG, PredictionEnd
from tasks.requests import Delivery
from tasks.subject import Subject, current_subject

RETRIED_BY = "dspex_retried_by"
"""Header of a message that replaces another: the trace context of the delivery that sent it."""

_CANCELLED = "PredictionCancelledError"


@dataclass(slots=True)
class Processing:
    """One delivery of a message, while it is processed.

    Attributes:
        span: its span.
        state: the Celery state that it ended in.
        error_type: the class of the error that it ended with; empty for none.
    """

    span: Span
    state: str = SUCCESS
    error_type: str = ""

    def end(self, state: str, error: object) -> None:
        """Record how it ended.

        Args:
            state: the Celery state.
            error: the error, or None.
        """
        self.state, self.error_type = state, "" if error is None else type(error).__name__
        if self.error_type and state != IGNORED:
            self.span.fail(self.error_type)


@contextmanager
def record_processing(task: str, task_id: str, headers: Mapping[str, Any], session: str = "") -> Generator[Processing]:
    """Record the block as one delivery of a message: a span in its sender's trace, and metrics.

    A delivery after the first also links the sender's span, and that of the delivery which sent it again.

    Args:
        task: the name of the Celery task.
        task_id: its id.
        headers: of its message.
        session: the session that its message names.
    """
    retries, deliveries = _count(headers.get("retries")), _count_deliveries(headers)
    attempt = retries + deliveries
    links = [headers, {"traceparent": headers.get(RETRIED_BY)}] if attempt > 1 else []
    program = str(headers.get(PROGRAM) or "")
    attributes = _describe_delivery(task_id, program, attempt, _queue(headers))
    meter, labels, started = TELEMETRY.meter, _messaging(_queue(headers)), time.perf_counter()
    ACTIVITY.begin()
    meter.add(IN_FLIGHT, 1)
    delivery = "redelivered" if deliveries > 1 else "retried" if retries else "first"
    meter.add(MESSAGES_CONSUMED, 1, {**labels, "dspex.delivery": delivery})
    subject = Subject(task_id, program, session, _seconds(headers.get(SENT_AT)), started, is_prediction=task != RUN_JOB)
    token = current_subject.set(subject)
    span = TELEMETRY.tracer.span(task, kind="consumer", attributes=attributes, parent=headers, links=links)
    processing = Processing(span)
    try:
        with TELEMETRY.tracer.share({}), span:
            yield processing
    except BaseException as exc:
        processing.end(FAILURE, exc)
        raise
    finally:
        current_subject.reset(token)
        ACTIVITY.finish()
        meter.add(IN_FLIGHT, -1)
        if processing.state != IGNORED:  # parked, moved to another queue, or finished already
            seconds = time.perf_counter() - started
            meter.record(PROCESS_DURATION, seconds, {**labels, "error.type": processing.error_type})


@contextmanager
def record_input(task_id: str, program: str, attempt: int, queue: str, sent_at: float) -> Generator[None]:
    """Record the block as one input of the current batch: in a trace of its own, linked in both directions.

    Args:
        task_id: of the prediction.
        program: the reference that was submitted.
        attempt: of the batch.
        queue: of the batch.
        sent_at: Unix seconds by the client's clock; 0 if unknown.
    """
    tracer, of_batch, own = TELEMETRY.tracer, dict[str, Any](), dict[str, Any]()
    batch = tracer.current_span()
    batch.inject(of_batch)
    attributes = _describe_delivery(task_id, program, attempt, queue)
    span = tracer.span(PREDICT, kind="consumer", attributes=attributes, root=True, links=[of_batch])
    span.inject(own)
    batch.add_link(own)
    known = current_subject.get() or Subject()
    started = time.perf_counter()
    token = current_subject.set(
        replace(
            known, task_id=task_id, reference=program, sent_at=sent_at, started_at=started, arms=(), provenance=None
        )
    )
    try:
        with tracer.share({}), span:
            yield
    finally:
        current_subject.reset(token)


def replacement_headers() -> Mapping[str, str]:
    """Return the headers by which a message that replaces the current one continues its trace; none if it has none."""
    headers: dict[str, str] = {}
    TELEMETRY.tracer.current_span().inject(headers)
    return {**headers, RETRIED_BY: headers["traceparent"]} if headers else {}


def retry_headers() -> Mapping[str, str]:
    """Return the header by which a retry of the current message, which has all its headers, links this delivery."""
    headers = replacement_headers()
    return {RETRIED_BY: headers[RETRIED_BY]} if headers else {}


def record_binding(session: str, token: str, program: str, version: int) -> None:
    """Record what the current prediction, or batch, is bound to; every span and metric from now on has it."""
    subject = current_subject.get()
    if subject is not None:
        subject.program, subject.version, subject.session, subject.token = program, version, session, token
    TELEMETRY.tracer.annotate(describe_binding(session, token, program, version))


def record_result(provenance: Provenance) -> None:
    """Record how the current prediction's result came about."""
    subject = current_subject.get()
    if subject is not None:
        subject.provenance = provenance


def describe_binding(session: str, token: str, program: str, version: int) -> Attributes:
    """Return the attributes that every span of a prediction has."""
    return {
        "dspex.session": session,
        "dspex.token": token,
        "gen_ai.prompt.name": program,
        "gen_ai.prompt.version": str(version),
    }


def record_start(
    program: str, snapshot: Snapshot, served: ServedSnapshot, delivery: Delivery, replica: Replica
) -> None:
    """Record that a prediction starts for the first time, past every limit.

    Args:
        program: its program's name.
        snapshot: the revision that it runs under.
        served: the newest one at the time, which its program may have refused.
        delivery: of its message.
        replica: knows the store's time.
    """
    meter, labels = TELEMETRY.meter, {"dspex.program": program, "dspex.session": snapshot.session}
    meter.record(STALENESS, served.staleness_s, labels)
    if snapshot.published_at:
        meter.record(REVISION_AGE, max(0.0, replica.store_time() - snapshot.published_at), labels)
    if delivery.sent_at:
        waited_s = max(0.0, time.time() - delivery.sent_at)
        meter.record(START_LATENCY, waited_s, {**labels, "dspex.priority": str(delivery.priority)})


def record_program(program: str) -> AbstractContextManager[None]:
    """Record the block as one run of a program: a span, and its duration.

    Args:
        program: the program's name.
    """
    return _record_run(program) if TELEMETRY.tracer.enabled or TELEMETRY.meter.enabled else nullcontext()


@contextmanager
def _record_run(program: str) -> Generator[None]:
    attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": program}
    started, error_type = time.perf_counter(), ""
    try:
        with TELEMETRY.tracer.span(f"invoke_agent {program}", attributes=attributes):
            yield
    except BaseException as exc:
        error_type = type(exc).__name__
        raise
    finally:
        labels = {"gen_ai.agent.name": program, "error.type": error_type}
        TELEMETRY.meter.record(PROGRAM_DURATION, time.perf_counter() - started, labels)


def record_commit(task_id: str, state: str, encoded: Any, headers: Mapping[str, Any] | None = None) -> None:
    """Record that a prediction's final state was committed, and was the first.

    Args:
        task_id: of the prediction.
        state: Celery's state.
        encoded: the result as Celery's backend encodes it.
        headers: of its message, for one that ended without being processed.
    """
    if state not in READY_STATES:
        return
    subject = current_subject.get() or _unprocessed(task_id, headers or {})
    if not subject.is_prediction:
        return
    error_type = str(encoded.get("exc_type") or "") if state != SUCCESS and isinstance(encoded, dict) else ""
    outcome = "ok" if state == SUCCESS else "cancelled" if state == REVOKED or error_type == _CANCELLED else "failed"
    latency_s = max(0.0, time.time() - subject.sent_at) if subject.sent_at else None
    if headers is not None or subject.started_at:  # a task of the application's own isn't a prediction
        ACTIVITY.count_end(outcome, latency_s)
        if TELEMETRY.meter.enabled or PREDICTION_LOG.is_enabled:
            _log_end(task_id, subject, outcome, error_type, latency_s)
    if TELEMETRY.meter.enabled:
        _measure_end(subject, outcome, error_type, latency_s)


def _measure_end(subject: Subject, outcome: str, error_type: str, latency_s: float | None) -> None:
    labels = {
        "dspex.program": subject.program,
        "dspex.session": subject.session,
        "dspex.outcome": outcome,
    }
    error = {"error.type": error_type if outcome == "failed" else ""}
    TELEMETRY.meter.add(PREDICTIONS, 1, {**labels, **error, "dspex.token": subject.token})
    if latency_s is not None:
        TELEMETRY.meter.record(LATENCY, latency_s, labels)


def _unprocessed(task_id: str, headers: Mapping[str, Any]) -> Subject:
    return Subject(task_id, str(headers.get(PROGRAM) or ""), sent_at=_seconds(headers.get(SENT_AT)))


def _log_end(task_id: str, subject: Subject, outcome: str, error_type: str, latency_s: float | None) -> None:
    provenance = subject.provenance if outcome == "ok" else None
    PREDICTION_LOG.record(
        PredictionEnd(
            task_id,
            outcome,
            error_type=error_type,
            program=subject.best_program,
            duration_s=time.perf_counter() - subject.started_at if subject.started_at else None,
            latency_s=latency_s,
            usage=provenance.usage if provenance is not None else {},
            cost_usd=provenance.cost_usd if provenance is not None else None,
        )
    )


def record_cached_answer(program: str, *, shared: bool) -> None:
    """Record that an LM call needed no request of its own.

    Args:
        program: the program's name.
        shared: whether it waited for an identical call; otherwise the answer was in the response cache.
    """
    TELEMETRY.tracer.current_span().set_attributes({"dspex.cache": "shared" if shared else "hit"})
    TELEMETRY.meter.add(CACHE_SHARED if shared else CACHE_HITS, 1, {"dspex.program": program})


def record_replayed_call(program: str) -> None:
    """Record that an LM call was answered by the journal of its prediction."""
    TELEMETRY.tracer.current_span().set_attributes({"dspex.journal": "replayed"})
    TELEMETRY.meter.add(JOURNAL_REPLAYED, 1, {"dspex.program": program})


# Headers come from outside: whatever a sender has written there, recording must not fail.


def _describe_delivery(task_id: str, program: str, attempt: int, queue: str) -> dict[str, Any]:
    return {
        **_messaging(queue),
        "messaging.operation.type": "process",
        "messaging.message.id": task_id,
        "dspex.program": program or None,
        "dspex.attempt": attempt,
    }


def _messaging(queue: str) -> dict[str, str]:
    return {
        "messaging.system": "celery",
        "messaging.destination.name": queue,
        "messaging.operation.name": "process",
    }


def _queue(headers: Mapping[str, Any]) -> str:
    route: Any = headers.get("delivery_info")
    return str(route.get("routing_key") or "") if isinstance(route, Mapping) else ""


def _count_deliveries(headers: Mapping[str, Any]) -> int:
    """Return 1, and 1 more for each worker that was lost with the message; other transports only flag a redelivery."""
    properties: Any = headers.get("properties")
    route: Any = headers.get("delivery_info")
    counted = _count(properties.get("deliveries")) if isinstance(properties, Mapping) else 0
    return counted or (2 if isinstance(route, Mapping) and route.get("redelivered") else 1)


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 < value < 1_000_000 else 0


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 < value < 1e12 else 0.0
