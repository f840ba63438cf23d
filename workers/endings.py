"""Endings: a prediction whose message was given up ends with an error that says so, since somebody waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from celery.app.task import Context
from celery.signals import worker_init
from celery.states import FAILURE

from snakepit_bridge.exceptions import PredictionGivenUp
from snakepit_bridge.messages import REPLY_CHANNEL
from workers.transport import given_up


def connect() -> None:
    """Has each worker note the ends of the messages that it gives up."""
    worker_init.connect(_listen, dispatch_uid=__name__)


def note(app: Any, told: Mapping[str, Any]) -> None:
    """Stores the end of a task whose message was given up, unless it has ended already, and tells who waits for it.

    What its worker rejected has been ended by Celery.

    Args:
        app: the Celery app, which has the result backend.
        told: what is known of the message; see ``snakepit_bridge.dead``.
    """
    task_id = told.get("task_id")
    if isinstance(task_id, str) and told["reason"] != "rejected":
        error = PredictionGivenUp(task_id, str(told["reason"]), str(told["error"]))
        request = Context(headers={REPLY_CHANNEL: told.get(REPLY_CHANNEL)})
        app.backend.store_result(task_id, error, FAILURE, request=request)


def _listen(sender: Any, **_: Any) -> None:
    given_up.listen(partial(note, sender.app))
