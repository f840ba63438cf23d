"""What a task records of a prediction: the attributes of its spans, and the metrics of its start and end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from snakepit_bridge.protocol.messages import PREDICT, PROGRAM, SENT_AT
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.freshness import ServedSnapshot
from snakepit_bridge.telemetry import TELEMETRY, Span
from snakepit_bridge.telemetry.metrics import (
    CACHE_HITS,
    CACHE_SHARED,
    IN_FLIGHT,
    LATENCY,
    MESSAGES_CONSUMED,
    PREDICTIONS,
    PROCESS_DURATION,
    REDELIVERIES,
    STALENESS,
    START_LATENCY,
)
from snakepit_bridge.telemetry.tracer import Attributes

RETRIED_BY = "dspex_retried_by"
"""Header of a message that retries another: the trace context of the delivery that sent it."""

OK, FAILED, CANCELLED = "ok", "failed", "cancelled"


def process_span(task: str, task_id: str, headers: Mapping[str, Any]) -> Span:
    """Return the span of a worker that processes a message, as a part of its sender's trace.

    Each delivery has its own. One after the first also links the sender's span, and the one that retried it if there
    was one.

    Args:
        task: the name of the Celery task.
        task_id: its id.
        headers: of its message.
    """
    attempt = _as_count(headers.get("retries")) + _count_deliveries(headers)
    links = [headers, {"traceparent": headers.get(RETRIED_BY)}] if attempt > 1 else []
    attributes = {
        **_messaging(headers),
        "messaging.message.id": task_id,
        "dspex.program": str(headers.get(PROGRAM) or "") or None,
        "dspex.attempt": attempt,
    }
    return TELEMETRY.tracer.span(task, kind="consumer", attributes=attributes, parent=headers, links=links)


def retry_headers() -> Mapping[str, str]:
    """Return the headers by which a message that retries the current one names it; none if it isn't traced."""
    headers: dict[str, str] = {}
    TELEMETRY.tracer.current_span().inject(headers)
    return {RETRIED_BY: headers["traceparent"]} if headers else {}


def input_span(task_id: str, batch: Span) -> Span:
    """Return the span of one input of a batch: a trace of its own, linked with the batch's span in both directions."""
    headers: dict[str, Any] = {}
    batch.inject(headers)
    span = TELEMETRY.tracer.span(
        PREDICT, kind="consumer", attributes={"messaging.message.id": task_id}, root=True, links=[headers]
    )
    own: dict[str, Any] = {}
    span.inject(own)
    batch.add_link(own)
    return span


def _count_deliveries(headers: Mapping[str, Any]) -> int:
    """Return which delivery of its message this is; transports other than ours only flag that it isn't the first."""
    properties: Mapping[str, Any] = headers.get("properties") or {}
    route: Mapping[str, Any] = headers.get("delivery_info") or {}
    return _as_count(properties.get("deliveries")) or (2 if route.get("redelivered") else 1)


def _as_count(value: object) -> int:
    """Return a number of a message, 0 if a sender wrote something else there."""
    return value if isinstance(value, int) and value > 0 else 0


def _messaging(headers: Mapping[str, Any]) -> dict[str, str]:
    route: Mapping[str, Any] = headers.get("delivery_info") or {}
    return {
        "messaging.system": "celery",
        "messaging.destination.name": str(route.get("routing_key") or ""),
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
    }


def record_delivery(headers: Mapping[str, Any]) -> None:
    """Record that a worker begins to process a message; :func:`record_processing` records the end."""
    meter = TELEMETRY.meter
    if not meter.enabled:
        return
    meter.add(IN_FLIGHT, 1)
    meter.add(MESSAGES_CONSUMED, 1, _messaging(headers))
    if _count_deliveries(headers) > 1:
        meter.add(REDELIVERIES)


def record_processing(headers: Mapping[str, Any], seconds: float, error: BaseException | None) -> None:
    """Record that a worker has processed a message.

    Args:
        headers: of the message.
        seconds: how long that took.
        error: why its task failed.
    """
    meter = TELEMETRY.meter
    if not meter.enabled:
        return
    meter.add(IN_FLIGHT, -1)
    meter.record(
        PROCESS_DURATION, seconds, {**_messaging(headers), "error.type": "" if error is None else type(error).__name__}
    )


def describe_program(session: str, token: Token, program: str, version: int) -> Attributes:
    """Return the attributes of every span of a prediction, known once its program is bound to a snapshot."""
    return {
        "dspex.session": session,
        "dspex.token": str(token),
        "gen_ai.prompt.name": program,
        "gen_ai.prompt.version": str(version),
    }


def record_start(program: str, session: str, priority: int, queued_s: float, served: ServedSnapshot) -> None:
    """Record that a prediction starts.

    Args:
        program: its program's name.
        session: the session that it runs under.
        priority: 0 to 9.
        queued_s: seconds since it was submitted; 0 if unknown.
        served: the snapshot that it runs under.
    """
    meter = TELEMETRY.meter
    if not meter.enabled:
        return
    labels = {"dspex.program": program, "dspex.session": session, "dspex.priority": str(priority)}
    meter.record(STALENESS, served.staleness_s, labels)
    if queued_s:
        meter.record(START_LATENCY, queued_s, labels)


def record_end(headers: Mapping[str, Any], session: str, outcome: str, error: BaseException | None = None) -> None:
    """Record that a prediction has ended.

    Args:
        headers: of its message.
        session: the session that it ran under.
        outcome: one of :data:`OK`, :data:`FAILED`, :data:`CANCELLED`.
        error: why it failed.
    """
    meter = TELEMETRY.meter
    if not meter.enabled:
        return
    labels = {
        "dspex.program": str(headers.get(PROGRAM) or ""),
        "dspex.session": session,
        "dspex.outcome": outcome,
        "error.type": "" if error is None else type(error).__name__,
    }
    meter.add(PREDICTIONS, 1, labels)
    sent_at = headers.get(SENT_AT)
    if isinstance(sent_at, int | float) and sent_at > 0:
        meter.record(LATENCY, max(0.0, time.time() - sent_at), labels)


def record_cached_answer(program: str, *, shared: bool) -> None:
    """Record that an LM call needed no request of its own.

    Args:
        program: the program's name.
        shared: whether it waited for an identical call; otherwise the answer was in the response cache.
    """
    TELEMETRY.tracer.current_span().set_attributes({"dspex.cache": "shared" if shared else "hit"})
    TELEMETRY.meter.add(CACHE_SHARED if shared else CACHE_HITS, 1, {"dspex.program": program})
