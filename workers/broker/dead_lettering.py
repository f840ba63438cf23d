"""Listeners for dead-lettered messages.

A client that waits for the task's result would wait for ever, so the app in this process can store an error for it.
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
    """Register a listener that is called, in any thread, with the summary of each message that is dead-lettered."""
    _LISTENERS.append(listener)


def notify_listeners(settlements: Iterable[Settlement]) -> None:
    """Call the listeners for the dead-lettered messages among these."""
    for settlement in settlements:
        if settlement.verb == "dead":
            for listener in _LISTENERS:
                _call(listener, json.loads(settlement.data))


def _call(listener: Listener, summary: Mapping[str, Any]) -> None:
    try:
        listener(summary)
    except Exception:  # (a failing listener must not stop the settling of other messages)
        logger.exception("A dead-letter listener failed for task %s", summary.get("task_id"))
