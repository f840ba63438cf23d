"""Chains, groups and chords that mix predictions with tasks of the caller's own.

The worker that ends a step sends the next one, and Celery routes it by that worker's app: a task of the caller's would
go to the fleet's queue, where nobody knows it. So where a canvas holds a prediction, each step without a queue is given
the one that its own app routes it to, when the first message of the canvas is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from celery.canvas import Signature
from celery.signals import before_task_publish

from snakepit_bridge.protocol.messages import PREDICT, PREDICT_BATCH

_FLEET_TASKS = (PREDICT, PREDICT_BATCH)
_EMBEDDED = ("chain", "chord", "callbacks", "errbacks")


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
