"""Hourly sums: written once with the result that counts, exact beyond doubles, bounded, and gone after their days."""

from __future__ import annotations

import time
from collections.abc import Generator
from decimal import Decimal
from typing import Any

import pytest
from redis import Redis

from config.settings import FleetSettings
from snakepit_bridge.client import Fleet
from snakepit_bridge.costs import hourly_sums
from snakepit_bridge.costs.report import CostRow
from snakepit_bridge.costs.usage import LMUsage, sum_usage
from snakepit_bridge.exceptions import PredictionFailedError
from tasks.spending import bind_spending, track_spending
from workers import result_backend
from workers.app import FleetApp

USAGE = LMUsage(2, 0, 100, 40, 30, 10, 123_456_789)
UNPRICED = LMUsage(1, 1, 7, 0, 3)


@pytest.fixture
def app(redis_url: str) -> FleetApp:
    return FleetApp(FleetSettings.model_validate({"redis_url": redis_url}))


@pytest.fixture
def redis(redis_url: str) -> Generator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def end(
    app: FleetApp,
    task_id: str,
    *,
    state: str = "SUCCESS",
    program: str = "qa",
    session: str = "s",
    token: str = "1.1",
    **by_profile: LMUsage,
) -> None:
    """Store a prediction's end as a worker does, with what its calls used."""
    with track_spending(task_id):
        spending = bind_spending(task_id, program, session, token)
        for profile, usage in by_profile.items():
            spending.add(profile, usage)
        error = PredictionFailedError(program, "ValueError", "no")
        app.backend.store_result(task_id, {"v": 1} if state == "SUCCESS" else error, state)


def rows(redis_url: str, by: Any) -> list[CostRow]:
    return list(Fleet(redis_url).cost(by).rows)


def test_a_prediction_counts_in_every_dimension(app: FleetApp, redis_url: str) -> None:
    end(app, "a", smart=USAGE, local=UNPRICED)
    whole = USAGE + UNPRICED
    assert rows(redis_url, "program") == [CostRow(program="qa", predictions=1, usage=whole)]
    assert rows(redis_url, "session") == [CostRow(session="s", predictions=1, usage=whole)]
    assert rows(redis_url, "revision") == [CostRow(session="s", token="1.1", predictions=1, usage=whole)]
    assert rows(redis_url, "profile") == [
        CostRow(profile="smart", predictions=1, usage=USAGE),
        CostRow(profile="local", predictions=1, usage=UNPRICED),
    ]


def test_a_session_is_the_sum_of_its_revisions(app: FleetApp, redis_url: str) -> None:
    end(app, "a", token="1.1", smart=USAGE)
    end(app, "b", token="1.2", smart=USAGE)
    end(app, "c", session="a:b", smart=USAGE)
    assert rows(redis_url, "session") == [
        CostRow(session="s", predictions=2, usage=USAGE + USAGE),
        CostRow(session="a:b", predictions=1, usage=USAGE),
    ]
    assert [(row.session, row.token) for row in rows(redis_url, "revision")] == [
        ("a:b", "1.1"), ("s", "1.1"), ("s", "1.2"),
    ]  # fmt: skip


def test_only_the_result_that_counts_adds_to_the_sums(app: FleetApp, redis_url: str) -> None:
    end(app, "a", smart=USAGE)
    end(app, "a", smart=USAGE)
    Fleet(redis_url).handle("b").cancel()
    end(app, "b", smart=USAGE)
    assert rows(redis_url, "program") == [CostRow(program="qa", predictions=1, usage=USAGE)]


def test_a_commit_that_is_sent_again_adds_nothing(app: FleetApp, redis_url: str) -> None:
    with track_spending("a"):
        bind_spending("a", "qa", "s", "1.1").add("smart", USAGE)
        keys, args = app.backend._script_arguments("a", {"v": 1}, "SUCCESS", None, None, "")
    assert [app.backend._commit(keys, args) for _ in range(3)] == [None] * 3
    assert rows(redis_url, "program") == [CostRow(program="qa", predictions=1, usage=USAGE)]


def test_what_is_no_end_adds_nothing(app: FleetApp, redis_url: str) -> None:
    end(app, "a", state="RETRY", smart=USAGE)
    assert rows(redis_url, "program") == []


def test_what_failed_predictions_used_stands_apart(app: FleetApp, redis_url: str) -> None:
    end(app, "a", state="FAILURE", smart=USAGE)
    end(app, "b", smart=USAGE)
    (row,) = rows(redis_url, "program")
    assert row == CostRow(program="qa", predictions=1, failed=1, usage=USAGE, failed_usage=USAGE)


def test_the_end_of_another_task_has_no_part_in_a_predictions_spending(app: FleetApp, redis_url: str) -> None:
    with track_spending("a"):
        bind_spending("a", "qa", "s", "1.1").add("smart", USAGE)
        app.backend.store_result("rest-of-its-chain", PredictionFailedError("qa", "ValueError", "no"), "FAILURE")
    assert rows(redis_url, "program") == []


def test_sums_are_exact(app: FleetApp, redis_url: str) -> None:
    """Money has more digits than a double, and adds up to the picodollar all the same."""
    amounts = [LMUsage(1, 0, 2**52, 1, 3, 1, 2**62 + 999_999), LMUsage(1, 0, 2, 0, 2**50, 0, 10**21 + 1)]
    amounts += [LMUsage(1, turn % 2, 10**7 + turn, turn, 3, 2, 999_999_999_999 - turn) for turn in range(7)]
    for number, usage in enumerate(amounts):
        end(app, f"{number}", smart=usage)
    for by in ("program", "session", "revision", "profile"):
        (row,) = rows(redis_url, by)
        assert (row.predictions, row.usage) == (9, sum_usage(amounts))
    assert row.cost_usd == Decimal(sum(usage.cost_pico for usage in amounts)).scaleb(-12)


def test_a_sum_that_would_not_be_exact_stays_as_it_is_and_is_logged_once(
    app: FleetApp, redis: Redis, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    result_backend._warn_of_lost_costs.cache_clear()
    end(app, "a", smart=USAGE)
    for number in range(2):
        end(app, f"large{number}", smart=LMUsage(1, cost_pico=10**22))
    key = redis.keys("dspex:cost:program:*")[0]  # type: ignore[index]
    redis.hset(key, "+broken", "no sum")
    end(app, "b", program="broken", smart=USAGE)
    assert redis.exists("celery-task-meta-large0", "celery-task-meta-large1", "celery-task-meta-b") == 3
    assert rows(redis_url, "revision") == [CostRow(session="s", token="1.1", predictions=2, usage=USAGE + USAGE)]
    assert sum("hourly sums" in record.message for record in caplog.records) == 1


def test_a_key_of_another_kind_costs_no_result(app: FleetApp, redis: Redis, redis_url: str) -> None:
    hour = int(time.time()) // 3_600
    for each in (hour, hour + 1):
        redis.set(f"dspex:cost:program:{each}", "text", ex=60)
    end(app, "a", smart=USAGE)
    assert redis.exists("celery-task-meta-a")
    assert rows(redis_url, "profile") == [CostRow(profile="smart", predictions=1, usage=USAGE)]


def test_sums_expire_after_the_days_of_the_setting(redis_url: str, redis: Redis) -> None:
    for days in (35, 2):
        redis.flushdb()
        app = FleetApp(FleetSettings.model_validate({"redis_url": redis_url, "cost_days": days}))
        end(app, "a", smart=USAGE)
        end(app, "b", smart=USAGE)
        keys: Any = redis.keys("dspex:cost:*")
        assert len(keys) == 3
        longest = days * 86_400 + 3_600  # the hour in which a report over all days begins is older than they are
        assert all(longest - 10 <= redis.ttl(key) <= longest for key in keys)


def test_without_days_nothing_is_kept(redis_url: str, redis: Redis) -> None:
    app = FleetApp(FleetSettings.model_validate({"redis_url": redis_url, "cost_days": 0}))
    end(app, "a", smart=USAGE)
    assert redis.keys("dspex:cost:*") == []


def test_groups_beyond_the_bound_are_counted_together(
    app: FleetApp, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hourly_sums, "_MAX_GROUPS", 2)
    for number in range(6):
        end(app, f"{number}", program=f"p{number}", session=f"s{number}", smart=USAGE)
    end(app, "again", program="p0", session="s0", smart=USAGE)
    by_program = {row.program: row.predictions for row in rows(redis_url, "program")}
    assert by_program == {"p0": 2, "p1": 1, "(other)": 4}
    assert Fleet(redis_url).cost("session").total.predictions == 7
    assert {row.session for row in rows(redis_url, "revision")} == {"s0", "s1", "(other)"}
    assert Fleet(redis_url).cost("revision").total.usage.cost_pico == 7 * USAGE.cost_pico


def test_a_group_takes_less_than_200_bytes(app: FleetApp, redis_url: str, redis: Redis) -> None:
    many = 1_000
    for number in range(many):
        end(app, f"{number}", session=f"session-{number:06d}", smart=USAGE)
    used: Any = redis.memory_usage(f"dspex:cost:revision:{int(time.time()) // 3_600}", samples=0)
    assert used is not None, "the hour changed within the test"
    assert 40 <= used / many <= 200


def test_a_report_covers_whole_hours_and_no_others(
    app: FleetApp, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for hours_ago in (0, 1, 24, 25, 26):
        monkeypatch.setattr(time, "time", lambda ago=hours_ago: now - ago * 3_600)
        end(app, f"{hours_ago}", smart=USAGE)
    monkeypatch.setattr(time, "time", lambda: now)
    fleet = Fleet(redis_url)
    counts = {since_s: fleet.cost("program", since_s).total.predictions for since_s in (0, 3_600, 86_400, 35 * 86_400)}
    assert counts == {0: 1, 3_600: 2, 86_400: 3, 35 * 86_400: 5}


def test_an_hour_of_a_worker_whose_clock_is_ahead_is_reported(
    app: FleetApp, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time() // 3_600 * 3_600 + 3_599
    monkeypatch.setattr(time, "time", lambda: now + 30)
    end(app, "a", smart=USAGE)
    monkeypatch.setattr(time, "time", lambda: now)
    assert Fleet(redis_url).cost("program", 0).total.predictions == 1


def test_another_namespace_has_sums_of_its_own(redis_url: str) -> None:
    app = FleetApp(FleetSettings.model_validate({"redis_url": redis_url, "namespace": "shop"}))
    end(app, "a", smart=USAGE)
    assert rows(redis_url, "program") == []
    assert Fleet(redis_url, namespace="shop").cost().total.predictions == 1


def test_a_hash_of_many_groups_is_read_whole(app: FleetApp, redis_url: str, redis: Redis) -> None:
    hour = int(time.time()) // 3_600
    key = f"dspex:cost:program:{hour}"
    redis.hset(key, mapping={f"+p{number}": "1 1 0 0 0 0 0 0 1" for number in range(3_000)})
    redis.expire(key, 60)
    total = Fleet(redis_url).cost().total
    assert (total.predictions, total.usage.calls, total.usage.cost_pico) == (3_000, 3_000, 3_000)


def test_a_report_of_too_many_groups_counts_the_rest_together(
    app: FleetApp, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hourly_sums, "_MAX_REPORTED", 2)
    for number in range(5):
        end(app, f"{number}", session=f"s{number}", smart=USAGE)
    for by in ("session", "revision"):
        report = Fleet(redis_url).cost(by)
        assert sorted(row.predictions for row in report.rows) == [1, 1, 3]
        assert report.rows[0].session == "(other)"
        assert report.total.usage.cost_pico == 5 * USAGE.cost_pico


@pytest.mark.parametrize(
    ("by", "since_s"), [("team", 1.0), ("program", -1), ("program", float("nan")), ("program", 36 * 86_400)]
)
def test_what_cannot_be_reported_is_refused(redis_url: str, by: Any, since_s: float) -> None:
    with pytest.raises(ValueError, match="Costs are"):
        Fleet(redis_url).cost(by, since_s)
