"""The bounded cache of several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from snakepit_bridge.process.lru_cache import ThreadSafeLRUCache


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
