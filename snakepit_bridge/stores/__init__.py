"""Where sessions are kept: the contract of a snapshot store, and the stores that fulfil it."""

from __future__ import annotations

from functools import cache
from typing import Any

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.stores.connection import masked
from snakepit_bridge.stores.contract import RETENTION, STORE, Change, Changes, Head, SnapshotStore
from snakepit_bridge.stores.memory import MemoryStore
from snakepit_bridge.stores.redis import RedisStore

__all__ = [
    "RETENTION",
    "STORE",
    "Change",
    "Changes",
    "Head",
    "MemoryStore",
    "RedisStore",
    "SnapshotStore",
    "open_store",
]

_REDIS = ("redis", "rediss", "unix", "redis+socket", "valkey", "valkeys")


def open_store(url: str, **options: Any) -> SnapshotStore:
    """Returns the store at a URL; nothing is connected before its first use.

    Args:
        url: ``memory://`` for the one store that this process shares, or a Redis URL.
        options: what ``RedisStore`` takes besides.

    Raises:
        ConfigurationError: no store has such a URL.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme == "memory":
        return _shared_memory()
    if separator and scheme in _REDIS:
        return RedisStore(url, **options)
    raise ConfigurationError(f"No snapshot store at {masked(url)}; give memory:// or one of {', '.join(_REDIS)}.")


@cache
def _shared_memory() -> MemoryStore:
    return MemoryStore()
