"""The span and the metric of a submit, and the headers by which the worker continues its trace."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from snakepit_bridge.exceptions import InputError
from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.metrics import MESSAGES_SENT


@dataclass(slots=True)
class Submit:
    """The submit of one message.

    Attributes:
        headers: what the message carries, so that the worker continues its trace.
        sent: whether the message is sent; it isn't if all its predictions were submitted before.
    """

    headers: dict[str, str] = field(default_factory=dict[str, str])
    sent: bool = True


@contextmanager
def record_submit(queue: str, program: str, task_ids: Sequence[str]) -> Generator[Submit]:
    """Record the block as the submit of one message.

    The headers are named as Celery's instrumentation for OpenTelemetry names them, so that a worker which is traced by
    that continues the trace as well.

    Args:
        queue: where the message goes.
        program: reference of the program.
        task_ids: ids of its predictions.
    """
    submit, meter = Submit(), TELEMETRY.meter
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
    with TELEMETRY.tracer.span(f"submit {queue}", kind="producer", attributes=attributes) as span:
        span.inject(submit.headers)
        try:
            yield submit
        except InputError:
            raise  # nothing was sent
        except Exception as exc:
            meter.add(MESSAGES_SENT, 1, {**labels, "error.type": type(exc).__name__})
            raise
        if submit.sent:
            meter.add(MESSAGES_SENT, 1, labels)
        else:
            span.set_attributes({"dspex.known": True})
