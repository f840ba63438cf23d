"""Chains, groups and chords: a prediction as a step of them, beside tasks of the caller's own.

The worker that ends a step sends the next one, and Celery routes it by that worker's app: a task of the caller's would
go to the fleet's queue, where nobody knows it. So where a canvas holds a prediction, each step without a queue is given
the one that its own app routes it to, when the first message of the canvas is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from celery import Celery
from celery.canvas import Signature
from celery.signals import before_task_publish

from snakepit_bridge.delivery.payloads import Payloads
from snakepit_bridge.protocol.json_values import escape
from snakepit_bridge.protocol.messages import HIDDEN, PREDICT, PREDICT_BATCH, PROGRAM, PredictionRequest
from snakepit_bridge.redis.replication import Replication

_FLEET_TASKS = (PREDICT, PREDICT_BATCH)
_EMBEDDED = ("chain", "chord", "callbacks", "errbacks")


def build_signature(
    app: Celery,
    request: PredictionRequest,
    inputs: Any,
    take: Mapping[str, str] | None,
    payloads: Payloads,
    durability: Replication,
    *,
    queue: str,
    priority: int,
) -> Signature:
    """Return a prediction as a step of a canvas, as ``Fleet.signature`` says.

    Args:
        app: sends the step, unless it is another step's successor.
        request: what it is, but for its inputs.
        inputs: None where they come from the step before it.
        take: input field to the output field of that step.
        payloads: the fleet's, which encrypt the inputs.
        durability: what its result waits for.
        queue: where workers take predictions from.
        priority: 0 to 9, the most urgent.
    """
    route_foreign_steps()
    crossing = escape(inputs)
    if inputs is not None and payloads.cipher.is_on:
        inputs = crossing = payloads.encrypt_step_inputs(inputs, request.program)
    request = replace(request, take=take, chained=inputs is None, escaped=crossing is not inputs)
    args = (request.program,) if inputs is None else (crossing, request.program)
    headers = {PROGRAM: request.program, **durability.headers()}
    hidden = {"argsrepr": HIDDEN, "kwargsrepr": HIDDEN, "headers": headers}
    options = {"queue": queue, "priority": priority, **hidden}
    return app.signature(PREDICT, args=args, kwargs=request.keywords(), options=options)


def route_foreign_steps() -> None:
    """Have the steps of canvases routed that this process sends; calling it again changes nothing."""
    before_task_publish.connect(_route, weak=False, dispatch_uid=__name__)


def _route(sender: Any = None, body: Any = None, **_: Any) -> None:
    if not (isinstance(body, tuple) and len(body) == 3 and isinstance(body[2], dict)):
        return  # another version of Celery's messages
    steps = [step for name in _EMBEDDED for step in _walk_steps(body[2].get(name))]
    if not steps or (sender not in _FLEET_TASKS and all(step.task not in _FLEET_TASKS for step in steps)):
        return
    for step in steps:
        assert step.task is not None
        assert step.options is not None
        if not step.task.startswith("celery.") and not {"queue", "exchange"} & step.options.keys():
            step.options.update(_resolve_route(step))


def _resolve_route(step: Signature) -> dict[str, Any]:
    """Return the queue that a step's own app sends it to, as a message can carry it."""
    found = step.app.amqp.router.route({}, step.task, step.args, step.kwargs)
    queue, key = found.get("queue"), found.get("routing_key")
    return {"queue": getattr(queue, "name", queue), **({"routing_key": key} if isinstance(key, str) else {})}


def _walk_steps(value: Any) -> Iterator[Signature]:
    """Yield the signatures in what a message carries on, those inside of others included."""
    if isinstance(value, Signature):
        kwargs, options = value.kwargs or {}, value.options or {}
        yield value
        yield from _walk_all(kwargs.get(name) for name in ("tasks", "header", "body"))
        yield from _walk_all(options.get(name) for name in ("link", "link_error", "chord"))
    elif isinstance(value, list | tuple):
        yield from _walk_all(value)


def _walk_all(values: Iterable[Any]) -> Iterator[Signature]:
    for value in values:
        yield from _walk_steps(value)
