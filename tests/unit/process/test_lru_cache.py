"""The bounded cache of several threads."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from cachetools import LRUCache, TTLCache

from snakepit_bridge.process.lru_cache import ThreadSafeLRUCache, peek_items


def test_the_least_recently_used_values_are_evicted() -> None:
    cache: ThreadSafeLRUCache[str, int] = ThreadSafeLRUCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), len(cache)) == (1, None, 3, 2)


def test_a_value_that_is_there_already_stays() -> None:
    cache: ThreadSafeLRUCache[str, list[int]] = ThreadSafeLRUCache(2)
    first: list[int] = []
    assert cache.put_if_absent("a", first) is first
    assert cache.put_if_absent("a", [1]) is first
    cache.drop("a")
    cache.drop("a")
    assert cache.get("a") is None


def test_threads_never_exceed_the_bound() -> None:
    cache: ThreadSafeLRUCache[int, int] = ThreadSafeLRUCache(8)

    def use(start: int) -> int:
        for n in range(start, start + 5_000):
            cache.put(n % 50, n)
            cache.get((n * 7) % 50)
            cache.drop((n * 11) % 50)
        return len(cache)

    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(use, range(0, 80, 10)))
    assert max(sizes) <= 8


@pytest.mark.parametrize("cache", [LRUCache(2), TTLCache(2, 60)])
def test_peeking_is_no_use(cache: LRUCache[str, int]) -> None:
    cache["used"], cache["older"] = 1, 2
    assert cache["used"] == 1
    assert dict(peek_items(cache)) == {"used": 1, "older": 2}
    cache["new"] = 3
    assert dict(peek_items(cache)) == {"used": 1, "new": 3}


@pytest.mark.parametrize("held", [False, True])
def test_a_forked_child_can_use_a_cache_whatever_its_parent_was_doing(held: bool) -> None:
    cache: ThreadSafeLRUCache[str, int] = ThreadSafeLRUCache(2)
    cache.put("a", 1)
    if held:
        cache._lock.acquire()
    pid = os.fork()
    if not pid:
        # What another thread was changing is dropped, since it may be half changed.
        left = None if held else 1
        is_usable = not cache._lock.locked() and cache.get("a") == left and cache.put_if_absent("b", 2) == 2
        os._exit(0 if is_usable else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert cache._lock.locked() is held
