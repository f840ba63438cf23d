"""The span and the metric of a submit, and the headers by which the worker continues its trace."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.metrics import MESSAGES_SENT


@contextmanager
def record_submit(queue: str, program: str, task_ids: Sequence[str]) -> Generator[Mapping[str, str]]:
    """Record the block as the submit of one message, and yield the headers that the message carries.

    They are named as Celery's instrumentation for OpenTelemetry names them, so that a worker which is traced by that
    continues the trace as well.

    Args:
        queue: where the message goes.
        program: reference of the program.
        task_ids: ids of its predictions.
    """
    telemetry, headers = TELEMETRY, dict[str, str]()
    labels = {
        "messaging.system": "celery",
        "messaging.destination.name": queue,
        "messaging.operation.name": "submit",
    }
    attributes = {
        **labels,
        "messaging.operation.type": "send",
        "messaging.message.id": task_ids[0] if len(task_ids) == 1 else None,
        "messaging.batch.message_count": len(task_ids) if len(task_ids) > 1 else None,
        "dspex.program": program,
    }
    with telemetry.tracer.span(f"submit {queue}", kind="producer", attributes=attributes) as span:
        span.inject(headers)
        try:
            yield headers
        except BaseException as exc:
            telemetry.meter.add(MESSAGES_SENT, 1, {**labels, "error.type": type(exc).__name__})
            raise
        telemetry.meter.add(MESSAGES_SENT, 1, labels)
