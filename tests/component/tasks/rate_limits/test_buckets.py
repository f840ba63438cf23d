"""A call passes all the buckets that concern it or takes from none, and no window ever holds more than its limit."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.rate_limits.rules import Bucket, LimitValues, build_buckets
from tasks.rate_limits.store import Costs, Granted, LimitRefusal, LimitStore
from tests.component.tasks.rate_limits.conftest import Clock

MINUTE = 60_000
FREE = Costs(0.0, 0.0)


def of(**limits: float) -> tuple[Bucket, ...]:
    return build_buckets("p", "demo", LimitValues(**limits))


async def ask(store: LimitStore, rules: Any, costs: Costs = FREE, permit: str = "") -> Granted | LimitRefusal:
    return await store.admit(permit or uuid4().hex, "demo", costs, rules)


async def test_requests_come_evenly_after_a_short_burst(store: LimitStore, clock: Clock) -> None:
    rules = of(requests_per_min=600)
    granted = 0
    while isinstance(answer := await ask(store, rules), Granted):
        granted += 1
    assert granted == 2, "a quarter of a second's worth"
    assert answer.scope == "p"
    assert 0 < answer.wait_s < 0.11
    await clock.pass_by(answer.wait_s * 1000 + 1)
    assert isinstance(await ask(store, rules), Granted)
    assert isinstance(await ask(store, rules), LimitRefusal)


async def test_one_refusing_bucket_leaves_the_others_untouched(store: LimitStore, clock: Clock) -> None:
    rules = of(requests_per_min=60) + build_buckets("s", "alice", LimitValues(concurrency=1))
    assert isinstance(await ask(store, rules), Granted)
    for _ in range(4):
        await clock.pass_by(2_000)
        refused = await ask(store, rules)
        assert isinstance(refused, LimitRefusal)
        assert refused.scope == "s"
    assert isinstance(await ask(store, of(requests_per_min=60)), Granted), "the profile's request was never taken"


async def test_a_permit_that_is_asked_for_twice_is_charged_once(store: LimitStore, clock: Clock) -> None:
    rules = of(concurrency=2)
    assert isinstance(await ask(store, rules, permit="a"), Granted)
    assert isinstance(await ask(store, rules, permit="a"), Granted)
    assert isinstance(await ask(store, rules, permit="b"), Granted)
    assert isinstance(await ask(store, rules, permit="c"), LimitRefusal)


async def test_what_an_estimate_took_too_much_comes_back(store: LimitStore, clock: Clock) -> None:
    rules = of(tokens_per_min=60_000)
    assert isinstance(await ask(store, rules, Costs(5_000, 0), "a"), Granted)
    assert isinstance(await ask(store, rules, Costs(100, 0)), LimitRefusal)
    await store.settle("a", Costs(100, 0))
    await clock.pass_by(200)
    assert isinstance(await ask(store, rules, Costs(100, 0)), Granted)


async def test_what_was_used_beyond_the_estimate_becomes_debt(store: LimitStore, clock: Clock) -> None:
    rules = of(tokens_per_min=60_000)
    assert isinstance(await ask(store, rules, Costs(10, 0), "a"), Granted)
    await store.settle("a", Costs(9_760, 0))
    refused = await ask(store, rules, Costs(10, 0))
    assert isinstance(refused, LimitRefusal)
    await clock.pass_by(9_000)
    assert isinstance(await ask(store, rules, Costs(10, 0)), LimitRefusal)
    await clock.pass_by(1_000)
    assert isinstance(await ask(store, rules, Costs(10, 0)), Granted)


async def test_a_call_is_settled_once(store: LimitStore, clock: Clock) -> None:
    rules = of(concurrency=2)
    for permit in "ab":
        assert isinstance(await ask(store, rules, permit=permit), Granted)
    for _ in range(3):
        await store.settle("a", FREE)
    assert isinstance(await ask(store, rules, permit="c"), Granted)
    assert isinstance(await ask(store, rules, permit="d"), LimitRefusal)


async def test_a_failed_call_stays_counted_as_a_request_and_one_never_made_does_not(
    store: LimitStore, clock: Clock
) -> None:
    rules = (Bucket("p:demo:requests", "p", 1, MINUTE, 1, paced=False),)
    assert isinstance(await ask(store, rules, permit="failed"), Granted)
    await store.settle("failed", FREE, requests=1)
    assert isinstance(await ask(store, rules), LimitRefusal)
    await clock.pass_by(MINUTE + 1_000)
    assert isinstance(await ask(store, rules, permit="unused"), Granted)
    await store.settle("unused", FREE, requests=0)
    assert isinstance(await ask(store, rules), Granted)


async def test_spend_is_bounded_by_the_hour_and_comes_all_at_once(store: LimitStore, clock: Clock) -> None:
    rules = of(spend_per_hour=1.0)
    for _ in range(4):
        assert isinstance(await ask(store, rules, Costs(0, 0.25)), Granted)
    assert isinstance(await ask(store, rules, Costs(0, 0.01)), LimitRefusal)
    await clock.pass_by(59 * MINUTE)
    assert isinstance(await ask(store, rules, Costs(0, 0.01)), LimitRefusal)
    await clock.pass_by(2 * MINUTE)
    assert isinstance(await ask(store, rules, Costs(0, 0.01)), Granted)


async def test_a_call_larger_than_the_whole_limit_passes_an_empty_window(store: LimitStore, clock: Clock) -> None:
    rules = of(tokens_per_min=1_000)
    assert isinstance(await ask(store, rules, Costs(5_000, 0)), Granted)
    assert isinstance(await ask(store, rules, Costs(1, 0)), LimitRefusal)


async def test_a_limit_of_nothing_lets_nothing_through(store: LimitStore, clock: Clock) -> None:
    for rules in (of(requests_per_min=0), of(concurrency=0), of(spend_per_hour=0)):
        assert isinstance(await ask(store, rules), LimitRefusal)


async def test_a_changed_limit_holds_at_the_next_call(store: LimitStore, clock: Clock) -> None:
    assert isinstance(await ask(store, of(requests_per_min=1)), Granted)
    await clock.pass_by(1_000)
    assert isinstance(await ask(store, of(requests_per_min=1)), LimitRefusal)
    assert isinstance(await ask(store, of(requests_per_min=6_000)), Granted)
    assert isinstance(await ask(store, of(requests_per_min=1)), LimitRefusal)


async def test_a_pause_stops_every_call_and_the_longer_one_holds(store: LimitStore, clock: Clock) -> None:
    await store.pause("demo", 5)
    await store.pause("demo", 2)
    refused = await ask(store, ())
    assert isinstance(refused, LimitRefusal)
    await clock.pass_by(4_000)
    assert isinstance(await ask(store, ()), LimitRefusal)
    assert isinstance(await store.admit("other", "another", FREE, ()), Granted)
    await clock.pass_by(1_001)
    assert isinstance(await ask(store, ()), Granted)


async def test_a_lapsed_permit_gives_its_place_back_but_not_what_the_provider_may_have_counted(
    store: LimitStore, clock: Clock
) -> None:
    rules = (*of(concurrency=1), Bucket("p:demo:requests", "p", 1, 10 * MINUTE, 2, paced=False))
    assert isinstance(await ask(store, rules, permit="killed"), Granted)
    await clock.pass_by(9_000)
    await store.send_heartbeat("other process", [])
    assert isinstance(await ask(store, rules), LimitRefusal)
    await clock.pass_by(1_001)
    assert isinstance(await ask(store, rules, permit="next"), Granted)
    await store.settle("next", FREE)
    refused = await ask(store, rules)
    assert isinstance(refused, LimitRefusal)
    assert refused.wait_s > 0.5, "the killed call's request is still counted"


async def test_a_renewed_permit_stays(store: LimitStore, clock: Clock) -> None:
    rules = of(concurrency=1)
    assert isinstance(await ask(store, rules, permit="long"), Granted)
    for _ in range(5):
        await clock.pass_by(9_000)
        await store.send_heartbeat("its process", ["long"])
        assert isinstance(await ask(store, rules), LimitRefusal)


async def test_calls_that_wait_in_place_come_one_after_the_other(store: LimitStore, clock: Clock) -> None:
    rules = of(requests_per_min=60)
    assert isinstance(await ask(store, rules), Granted)
    waits = [
        answer.wait_s for n in range(3) if isinstance(answer := await ask(store, rules, permit=f"w{n}"), LimitRefusal)
    ]
    assert waits == sorted(waits)
    assert len(waits) == 3


@pytest.mark.parametrize("paced", [True, False])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(0, 30_000), st.integers(1, 40)), min_size=5, max_size=60))
async def test_no_window_holds_more_than_its_limit(
    store: LimitStore, clock: Clock, paced: bool, steps: list[tuple[int, int]]
) -> None:
    limit, name = 100, uuid4().hex
    rules = (Bucket(name, "p", 2, MINUTE, limit, paced),)
    now, admitted = 0.0, list[tuple[float, int]]()
    for wait, cost in steps:
        await clock.pass_by(wait)
        now += wait
        if isinstance(await ask(store, rules, Costs(cost, 0)), Granted):
            admitted.append((now, cost))
    for at, _ in admitted:
        assert sum(cost for when, cost in admitted if at - MINUTE < when <= at) <= limit
