"""What is in force of the limits, how much of it is used, and who waits, as those read it who watch a fleet."""

from __future__ import annotations

import pytest

from tasks.rate_limits import usage
from tasks.rate_limits.rules import LimitValues, build_buckets
from tasks.rate_limits.store import Costs, Granted, LimitStore
from tasks.rate_limits.usage import LimitsInUse, read_limits
from tests.component.tasks.rate_limits.conftest import Broker

FREE = Costs(0.0, 0.0)
LIMITS = LimitValues(requests_per_min=600, tokens_per_min=60_000, concurrency=4, spend_per_hour=2.0)


async def read(store: LimitStore) -> dict[tuple[str, str], tuple[float, float]]:
    found = await read_limits(store.connection, namespace=store.namespace)
    return {(limit.profile, limit.kind): (limit.allowed, limit.used) for limit in found.limits}


async def test_nothing_is_in_force_before_a_call(store: LimitStore) -> None:
    assert await read_limits(store.connection) == LimitsInUse((), {})


async def test_each_limit_has_what_its_calls_were_charged(store: LimitStore) -> None:
    buckets = build_buckets("p", "demo", LIMITS) + build_buckets("s", "alice", LimitValues(concurrency=9))
    for permit in ("a", "b"):
        assert isinstance(await store.admit(permit, "demo", Costs(100.0, 0.25), buckets), Granted)
    await store.settle("a", Costs(40.0, 0.05))
    assert await read(store) == {
        ("demo", "requests_per_min"): (600.0, 2.0),
        ("demo", "tokens_per_min"): (60_000.0, 140.0),
        ("demo", "concurrency"): (4.0, 1.0),
        ("demo", "spend_per_hour"): (2.0, pytest.approx(0.3)),
    }


async def test_a_limit_that_was_changed_is_the_new_one(store: LimitStore) -> None:
    for limit in (4.0, 9.0):
        await store.admit(str(limit), "demo", FREE, build_buckets("p", "demo", LimitValues(concurrency=limit)))
    assert await read(store) == {("demo", "concurrency"): (9.0, 2.0)}


async def test_a_profile_may_have_colons_in_its_name(store: LimitStore) -> None:
    await store.admit("a", "team:demo", FREE, build_buckets("p", "team:demo", LimitValues(concurrency=1)))
    assert await read(store) == {("team:demo", "concurrency"): (1.0, 1.0)}


def test_what_left_the_window_is_not_used_any_more() -> None:
    minute = {"level": "1", "at": "2", "sum": "9", "slice": "240", "240": "2", "130": "3", "119": "4"}
    # Half a second each: slice 240 begins two minutes after 0.
    assert usage._sum_of_window(minute, 60_000, 120_000) == 5.0
    assert usage._sum_of_window(minute, 60_000, 180_000) == 2.0
    assert usage._sum_of_window(minute, 60_000, 500_000) == 0.0


def test_a_limit_that_no_call_was_charged_to_for_an_hour_is_forgotten() -> None:
    assert usage._parse_limit("p:demo:concurrency", "4 0 1000", {}, 0, 1_000.0 + 3_600_000) is not None
    assert usage._parse_limit("p:demo:concurrency", "4 0 1000", {}, 0, 1_001.0 + 3_600_000) is None


async def test_parked_predictions_count_by_profile(store: LimitStore, broker: Broker) -> None:
    buckets = build_buckets("p", "demo", LimitValues(concurrency=1))
    for name in ("a", "b", "c"):
        task = await broker.claimed(name)
        await store.start(task, f"r:{name}", "demo", FREE, buckets, "")  # type: ignore[arg-type]
    assert (await read_limits(store.connection)).parked == {"demo": 2}
    assert await read(store) == {("demo", "concurrency"): (1.0, 1.0)}
