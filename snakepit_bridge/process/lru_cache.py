"""A bounded cache for several threads."""

from __future__ import annotations

import threading
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from cachetools import Cache, LRUCache

from snakepit_bridge.process.forking import after_fork_in_child

K = TypeVar("K")
V = TypeVar("V")


class ThreadSafeLRUCache(Generic[K, V]):
    """A cache that evicts the least recently used values. Of cachetools, whose caches need a lock even to be read.

    Args:
        max_entries: maximum number of values.
    """

    def __init__(self, max_entries: int) -> None:
        self._values: LRUCache[K, V] = LRUCache(max_entries)
        self._lock = threading.Lock()
        _caches.add(self)

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """Return the value of a key, or None."""
        with self._lock:
            return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Set the value of a key."""
        with self._lock:
            self._values[key] = value

    def put_if_absent(self, key: K, value: V) -> V:
        """Set the value of a key unless it has one, and return the value that it has then."""
        with self._lock:
            return self._values.setdefault(key, value)

    def drop(self, key: K) -> None:
        """Remove the value of a key, if it has one."""
        with self._lock:
            self._values.pop(key, None)

    def reset_after_fork(self) -> None:
        """Replace the lock in a forked child, where the thread that held it doesn't run, with what it was changing."""
        if self._lock.locked():
            self._values = LRUCache(self._values.maxsize)
        self._lock = threading.Lock()


_caches: WeakSet[ThreadSafeLRUCache[Any, Any]] = WeakSet()


def _after_fork() -> None:
    for cache in _caches:
        cache.reset_after_fork()


after_fork_in_child(_after_fork)


def peek_items(cache: Cache[K, V]) -> list[tuple[K, V]]:
    """Return what one of cachetools' caches contains; unlike its ``items``, that doesn't count as a use."""
    return [(key, Cache.__getitem__(cache, key)) for key in cache]
