"""Namespaces: keep several fleets on one Redis and one broker apart from each other.

A fleet's keys and channels begin with its namespace. So do its queue, unless that is named, and the exchanges of
Celery's remote control and events, which would otherwise reach every worker on the broker. A request carries its
namespace, so that workers of another fleet reject it even if two fleets share one queue.
"""

from __future__ import annotations

import re

DEFAULT_NAMESPACE = "dspex"
_DEFAULT_QUEUE = "predictions"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,50}")


def check_namespace(namespace: str) -> str:
    """Return the namespace if it can be part of keys.

    Raises:
        ValueError: it has other characters, or is empty or too long.
    """
    if not _NAME.fullmatch(namespace):
        raise ValueError(f"A namespace is 1 to 50 letters, digits, '_', '.' or '-'; got {namespace!r}")
    return namespace


def default_queue(namespace: str) -> str:
    """Return a fleet's own queue, used if it names no other. ``config.settings`` has the same rule."""
    return _DEFAULT_QUEUE if namespace == DEFAULT_NAMESPACE else f"{namespace}.{_DEFAULT_QUEUE}"


def exchanges(namespace: str) -> dict[str, str]:
    """Return the part of Celery's configuration that keeps remote control and events inside one fleet.

    The default namespace keeps Celery's own names, by which stock tools such as Flower find its workers.
    ``config.celery`` has the same rule.
    """
    if namespace == DEFAULT_NAMESPACE:
        return {}
    return {"control_exchange": f"{namespace}.control", "event_exchange": f"{namespace}.events"}
