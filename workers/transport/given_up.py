"""Given up: what is done when a message goes to the dead list, beside putting it there.

Whoever waits for the task's result would wait for ever, so that the app that runs in this process may note its end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from workers.transport.settlement import Settlement

Listener = Callable[[Mapping[str, Any]], None]

_LISTENERS: list[Listener] = []


def listen(listener: Listener) -> None:
    """Has a listener called with what is known of each message that this process gives up, in any thread."""
    _LISTENERS.append(listener)


def announce(settlements: Iterable[Settlement]) -> None:
    """Calls the listeners for the messages among these that were given up."""
    for one in settlements:
        if one.verb == "dead":
            for listener in _LISTENERS:
                listener(json.loads(one.data))
