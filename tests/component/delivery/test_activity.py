"""What worker processes report of their activity, in a real Redis: who is live, and what has ended in each minute."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

import pytest

from snakepit_bridge.delivery import activity
from snakepit_bridge.delivery.activity import ActivityStore, EndedPredictions, ProcessReport, merge_minutes
from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.rollouts.sketch import bucket_of
from tasks.activity import ACTIVITY, ActivityCounter, ActivityReporter, WorkerNode


@pytest.fixture
async def connection(redis_url: str) -> AsyncGenerator[RedisConnection]:
    opened = RedisConnection(redis_url, timeout_s=5)
    yield opened
    await opened.aclose()


@pytest.fixture
def store(connection: RedisConnection) -> ActivityStore:
    return ActivityStore(connection)


def process(pid: int, **changes: object) -> ProcessReport:
    given = {"pool": "asyncio", "concurrency": 4, "queues": ("predictions",), "in_flight": 2, "ended": {"ok": 7}}
    return ProcessReport("worker@a", pid, **{**given, **changes})  # pyright: ignore[reportArgumentType]


def ended(at: float, **outcomes: int) -> EndedPredictions:
    return EndedPredictions(at, outcomes, {bucket_of(200.0): outcomes.get("ok", 0)} if outcomes.get("ok") else {})


async def test_processes_are_live_while_they_report(store: ActivityStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await store.read_processes() == []
    await store.report(process(2), EndedPredictions())
    await store.report(process(1), EndedPredictions())
    await store.report(process(2, in_flight=0), EndedPredictions())
    live = await store.read_processes()
    assert [each.report for each in live] == [process(1), process(2, in_flight=0)]
    assert activity._parse_report(
        b'{"node": "n", "pid": 1, "pool": "", "concurrency": 1, "queues": [], "later": 1}'
    ).pid
    assert all(abs(each.reported_at - time.time()) < 5 for each in live)
    monkeypatch.setattr(activity, "_GONE_S", -1.0)
    assert await store.read_processes() == []


async def test_a_report_forgets_processes_that_are_gone(
    store: ActivityStore, connection: RedisConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.report(process(1), EndedPredictions())
    monkeypatch.setattr(activity, "_GONE_S", 0.0)
    await store.report(process(2), EndedPredictions())
    (names,) = await connection.send_each([("HKEYS", "dspex:{activity}:reports")])
    assert names == [b"worker@a/2"]


async def test_what_ended_adds_up_by_minute_over_processes(store: ActivityStore) -> None:
    start = 1_795_000_020.0
    await store.report(process(1), ended(start, ok=3, failed=1))
    await store.report(process(2), ended(start + 59, ok=2))
    await store.report(process(2), ended(start + 61, cancelled=4))
    minutes = await store.read_minutes(start, start + 120)
    assert [(minute.at, minute.outcomes) for minute in minutes] == [
        (start, {"ok": 5, "failed": 1}), (start + 60, {"cancelled": 4}), (start + 120, {}),
    ]  # fmt: skip
    assert minutes[0].latency_s(0.95) == pytest.approx(0.2, rel=0.02)
    assert minutes[1].latency_s(0.95) is None
    (whole,) = merge_minutes(minutes, 3)
    assert (whole.at, whole.outcomes) == (start, {"ok": 5, "failed": 1, "cancelled": 4})


async def test_every_key_expires(store: ActivityStore, connection: RedisConnection) -> None:
    await store.report(process(1), ended(time.time(), ok=1))
    (keys,) = await connection.send_each([("KEYS", "*")])
    assert len(keys) == 3
    assert all(0 < ttl <= 86_400 for ttl in await connection.send_each([("TTL", key) for key in keys]))


async def test_what_cannot_be_reported_is_reported_the_next_time(
    store: ActivityStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = ActivityCounter(WorkerNode("worker@a", "asyncio", 4, ("predictions",)))
    monkeypatch.setattr("tasks.activity.ACTIVITY", counter)
    unreachable = ActivityStore(RedisConnection("redis://127.0.0.1:1", timeout_s=1))
    counter.begin()
    counter.count_end("ok", 0.2)
    with pytest.raises(StoreUnavailableError):
        await ActivityReporter(unreachable).report()
    counter.count_end("failed", None)
    await ActivityReporter(store).report()
    (live,) = await store.read_processes()
    assert (live.report.in_flight, live.report.ended) == (1, {"ok": 1, "failed": 1})
    minutes = await store.read_minutes(time.time() - 60, time.time())
    assert {name: sum(minute.outcomes.get(name, 0) for minute in minutes) for name in ("ok", "failed")} == {
        "ok": 1, "failed": 1,
    }  # fmt: skip
    assert counter.take()[1].outcomes == {}


def test_a_forked_child_counts_from_nothing() -> None:
    counter = ActivityCounter(WorkerNode("worker@a"))
    counter.begin()
    counter.count_end("ok", 1.0)
    counter.reset()
    report, since = counter.take()
    assert (report.node, report.in_flight, report.ended, since.outcomes) == ("worker@a", 0, {}, {})
    assert isinstance(ACTIVITY, ActivityCounter)
