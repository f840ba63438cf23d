"""When a process looks for garbage: not among predictions that only wait."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Generator

import pytest

from snakepit_bridge.process import garbage_collection
from snakepit_bridge.process.garbage_collection import PeriodicCollector, scale_gc_threshold
from tests.harness.waiting import wait_until
from workers.pool import asyncio_pool
from workers.pool.asyncio_pool import AsyncioPool


@pytest.fixture(autouse=True)
def _threshold_restored() -> Generator[None]:  # pyright: ignore[reportUnusedFunction]
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)


def test_a_small_process_collects_after_as_many_objects_as_any_other() -> None:
    scale_gc_threshold(1)
    least = gc.get_threshold()[0]
    scale_gc_threshold(0)
    assert gc.get_threshold()[0] == least


def test_more_predictions_at_a_time_are_more_objects_that_no_collection_has_to_look_through() -> None:
    scale_gc_threshold(1_000)
    thousand = gc.get_threshold()[0]
    scale_gc_threshold(2_000)
    assert gc.get_threshold()[0] == 2 * thousand


def test_the_pool_sets_it_as_it_starts_and_as_it_is_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio_pool, "set_bridge", lambda _: None)
    pool = AsyncioPool(1_000)
    pool.on_start()
    thousand = gc.get_threshold()[0]
    pool.grow(1_000)
    wait_until(lambda: gc.get_threshold()[0] == 2 * thousand, "the pool to grow")
    pool.shrink(1_000)
    wait_until(lambda: gc.get_threshold()[0] == thousand, "the pool to shrink")


class _Cycle:
    """Garbage that only a collection frees."""

    def __init__(self) -> None:
        self.me = self


def _is_freed(collector: PeriodicCollector, now_s: float, *, generation: int) -> bool:
    """Check whether a collection frees a cycle that has survived this many."""
    cycle = _Cycle()
    for younger in range(generation):
        gc.collect(younger)
    freed = weakref.ref(cycle)
    del cycle
    collector.collect_if_due(now_s)
    return freed() is None


@pytest.fixture
def _no_collections_of_its_own() -> Generator[None]:  # pyright: ignore[reportUnusedFunction]
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collections_of_its_own")
def test_garbage_waits_five_seconds_at_most_while_predictions_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage_collection.time, "thread_time", lambda: 0.0)
    collector = PeriodicCollector()
    assert _is_freed(collector, 100.0, generation=0)
    assert not _is_freed(collector, 104.9, generation=0)
    assert _is_freed(collector, 105.0, generation=0)


@pytest.mark.usefixtures("_no_collections_of_its_own")
def test_garbage_waits_longer_where_a_collection_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 0.4] * 3)
    monkeypatch.setattr(garbage_collection.time, "thread_time", lambda: next(times))
    collector = PeriodicCollector()
    assert _is_freed(collector, 100.0, generation=0)
    assert not _is_freed(collector, 119.0, generation=0)
    assert _is_freed(collector, 121.0, generation=0)


@pytest.mark.usefixtures("_no_collections_of_its_own")
def test_garbage_waits_a_minute_at_most_however_long_a_collection_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 10.0] * 2)
    monkeypatch.setattr(garbage_collection.time, "thread_time", lambda: next(times))
    collector = PeriodicCollector()
    assert _is_freed(collector, 100.0, generation=0)
    assert _is_freed(collector, 160.0, generation=0)


@pytest.mark.usefixtures("_no_collections_of_its_own")
@pytest.mark.parametrize(("generation", "each"), [(1, 10), (2, 100)])
def test_garbage_that_has_become_old_is_found_by_fewer_collections(generation: int, each: int) -> None:
    collector = PeriodicCollector()
    found = [number for number in range(1, each + 1) if _is_freed(collector, 100.0 * number, generation=generation)]
    assert found == list(range(10**generation, each + 1, 10**generation))
