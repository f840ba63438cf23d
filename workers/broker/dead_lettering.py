"""Given up: what is done when a message goes to the dead list, beside putting it there.

Whoever waits for the task's result would wait for ever, so that the app that runs in this process may note its end.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from workers.broker.settlement import Settlement

logger = logging.getLogger(__name__)

Listener = Callable[[Mapping[str, Any]], None]

_LISTENERS: list[Listener] = []


def add_listener(listener: Listener) -> None:
    """Has a listener called with what is known of each message that this process gives up, in any thread."""
    _LISTENERS.append(listener)


def notify_listeners(settlements: Iterable[Settlement]) -> None:
    """Calls the listeners for the messages among these that were given up."""
    for one in settlements:
        if one.verb == "dead":
            for listener in _LISTENERS:
                _call(listener, json.loads(one.data))


def _call(listener: Listener, told: Mapping[str, Any]) -> None:
    try:
        listener(told)
    except Exception:  # (whoever gives a message up has other messages to look after)
        logger.exception("The end of task %s, whose message was given up, can't be noted", told.get("task_id"))
