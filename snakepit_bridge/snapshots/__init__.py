"""Storage of sessions: the snapshot store interface, its implementations, and replicas."""

from __future__ import annotations

from functools import cache
from typing import Any

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.redis.urls import SCHEMES, mask_url
from snakepit_bridge.snapshots.checks import Check, CheckFunction, register_check
from snakepit_bridge.snapshots.memory import MemoryStore
from snakepit_bridge.snapshots.records import (
    DEFAULT_REVISIONS,
    LATEST,
    STORE,
    Change,
    Changes,
    Confirmation,
    Head,
    Label,
    Retention,
    RevisionRef,
)
from snakepit_bridge.snapshots.redis_store import RedisStore
from snakepit_bridge.snapshots.store import SnapshotStore
from snakepit_bridge.snapshots.watch import Moves, Watch

__all__ = [
    "LATEST",
    "DEFAULT_REVISIONS",
    "STORE",
    "RevisionRef",
    "Change",
    "Changes",
    "Check",
    "CheckFunction",
    "Head",
    "Label",
    "Confirmation",
    "MemoryStore",
    "Moves",
    "RedisStore",
    "Retention",
    "SnapshotStore",
    "Watch",
    "open_store",
    "register_check",
]


def open_store(url: str, **options: Any) -> SnapshotStore:
    """Return the store for a URL; it connects on its first use.

    Args:
        url: ``memory://`` for the one store that this process shares, or a Redis URL.
        options: further arguments of ``RedisStore``.

    Raises:
        ConfigurationError: no store supports the URL.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme == "memory":
        return _shared_memory()
    if separator and scheme in SCHEMES:
        return RedisStore(url, **options)
    raise ConfigurationError(f"No snapshot store at {mask_url(url)}; give memory:// or one of {', '.join(SCHEMES)}.")


@cache
def _shared_memory() -> MemoryStore:
    return MemoryStore()
