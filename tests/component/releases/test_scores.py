"""Scores in Redis: one for each name and scorer, counted by difference, and kept as long as the result."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.exceptions import (
    PayloadLostError,
    PredictionFailedError,
    PredictionNotScorableError,
    ScoreError,
)
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.messages import Result
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.releases import scores
from snakepit_bridge.releases.scores import Score, Scores, read_arms
from tests.harness.stage import fresh
from tests.unit.protocol.test_provenance import SAMPLE

ARM = {"rollout": "r1", "arm": "candidate", "stage": 2, "target": "session:s"}


@pytest.fixture
def fleet(redis_url: str) -> Fleet:
    return Fleet(redis_url)


@pytest.fixture
def redis(redis_url: str) -> Generator[Redis]:
    with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def end(fleet: Fleet, *arms: dict[str, Any], error: BaseException | None = None) -> Handle:
    """Store a prediction's end as a worker does."""
    handle = fleet.handle(fresh("task"))
    if error is not None:
        fleet.app.backend.store_result(handle.id, error, "FAILURE")
    else:
        result = Result({"answer": "42"}, {**SAMPLE.encode(), "arms": list(arms)})
        fleet.app.backend.store_result(handle.id, result.encode(), "SUCCESS")
    return handle


def counts(redis: Redis, rollout: str = "r1", stage: int = 2, arm: str = "candidate") -> dict[str, int]:
    """Return what was counted for an arm over all minutes, without what adds up to nothing."""
    sums: dict[Any, int] = {}
    for key in redis.scan_iter(f"dspex:{{r:{rollout}}}:counts:{stage}:{arm}:*"):
        for field, amount in redis.hgetall(key).items():
            sums[field] = sums.get(field, 0) + int(amount)
    return {field: amount for field, amount in sums.items() if amount}


def test_a_score_is_stored_and_read(fleet: Fleet) -> None:
    handle = end(fleet)
    before = time.time()
    stored = handle.score("helpful", 0.75, comment="answers the question", scorer="jo")
    assert abs(stored.at - before) < 5
    handle.score("tone", "curt")
    fleet.score(handle.id, "correct", True)
    assert handle.scores() == fleet.scores(handle.id)
    assert [(score.name, score.value, score.comment, score.scorer) for score in handle.scores()] == [
        ("correct", True, "", "application"),
        ("helpful", 0.75, "answers the question", "jo"),
        ("tone", "curt", "", "application"),
    ]
    assert handle.scores()[1] == stored


async def test_a_prediction_is_scored_from_any_event_loop(fleet: Fleet) -> None:
    handle = end(fleet)
    stored = await handle.ascore("helpful", 1.0)
    assert stored.value == 1.0
    with pytest.raises(ScoreError):
        await handle.ascore("helpful", 2.0)


def test_the_last_value_of_a_name_and_scorer_counts(fleet: Fleet, redis: Redis) -> None:
    handle = end(fleet, ARM)
    handle.score("helpful", 0.25)
    assert counts(redis) == {"s:helpful:n": 1, "s:helpful:m": 250_000}
    for _ in range(3):
        handle.score("helpful", 0.75)
    assert counts(redis) == {"s:helpful:n": 1, "s:helpful:m": 750_000}
    handle.score("helpful", 1.0, scorer="jo")
    assert counts(redis) == {"s:helpful:n": 2, "s:helpful:m": 1_750_000}
    assert [score.value for score in handle.scores()] == [0.75, 1.0]


def test_a_score_that_is_sent_again_in_another_minute_counts_once(fleet: Fleet, redis: Redis) -> None:
    handle, store, now_s = end(fleet, ARM), Scores(fleet.connection, fleet.namespace), 1_764_000_000.0
    arms = read_arms({"arms": [ARM]})
    for after_s in (0, 60, 120):
        score, key = Score("helpful", 0.5, at=now_s + after_s), fleet.results.key_of(handle.id)
        run_blocking(store.put(handle.id, key, arms, score, now_s=score.at))
    assert counts(redis) == {"s:helpful:n": 1, "s:helpful:m": 500_000}
    assert redis.keys("*counts*") == ["dspex:{r:r1}:counts:2:candidate:29400000"]


def test_a_score_may_change_its_kind(fleet: Fleet, redis: Redis) -> None:
    handle = end(fleet, ARM)
    for value, counted in (
        (True, {"s:helpful:n": 1, "s:helpful:m": 1_000_000}),
        ("good", {"s:helpful:l:good": 1}),
        ("bad: n", {"s:helpful:l:bad: n": 1}),
        (0, {"s:helpful:n": 1}),
        (False, {"s:helpful:n": 1}),
    ):
        handle.score("helpful", value)
        assert counts(redis) == counted


def test_a_score_counts_for_each_arm_of_its_prediction(fleet: Fleet, redis: Redis) -> None:
    other = {"rollout": "r2", "arm": "baseline", "stage": 1, "target": "program:qa@prod"}
    end(fleet, ARM, other).score("helpful", 0.5)
    end(fleet, other).score("helpful", 1.0)
    end(fleet).score("helpful", 1.0)
    assert counts(redis) == {"s:helpful:n": 1, "s:helpful:m": 500_000}
    assert counts(redis, "r2", 1, "baseline") == {"s:helpful:n": 2, "s:helpful:m": 1_500_000}


def test_a_failed_prediction_is_scored_and_counts_for_no_arm(fleet: Fleet, redis: Redis) -> None:
    handle = end(fleet, error=PredictionFailedError("qa", "ValueError", "no"))
    handle.score("helpful", False)
    assert [score.value for score in handle.scores()] == [False]
    assert list(redis.scan_iter("*counts*")) == []


def test_scorers_are_told_apart_whatever_their_names(fleet: Fleet) -> None:
    handle = end(fleet)
    for scorer in ("a", "a:b", "a%3Ab", "helpful:a", "{t:a}"):
        handle.score("helpful", 1.0, scorer=scorer)
    assert sorted(score.scorer for score in handle.scores()) == sorted(("a", "a:b", "a%3Ab", "helpful:a", "{t:a}"))


def test_without_a_result_nothing_is_stored(fleet: Fleet, redis: Redis) -> None:
    handle = fleet.handle("never-submitted")
    with pytest.raises(PredictionNotScorableError, match=r"never-submitted .* has no result"):
        handle.score("helpful", 1.0)
    fleet.app.backend.store_result(handle.id, None, "STARTED")
    with pytest.raises(PredictionNotScorableError):
        handle.score("helpful", 1.0)
    assert handle.scores() == []
    assert redis.exists(FleetKeys().scores(handle.id)) == 0


def test_a_result_that_expires_meanwhile_is_not_scored(fleet: Fleet, redis: Redis) -> None:
    handle = end(fleet)
    store, key = Scores(fleet.connection, fleet.namespace), fleet.results.key_of(handle.id)
    redis.delete(key)
    with pytest.raises(PredictionNotScorableError):
        run_blocking(store.put(handle.id, key, read_arms({"arms": [ARM]}), Score("helpful", 1.0), now_s=time.time()))
    assert counts(redis) == {}


def test_a_result_that_was_lost_beside_its_message_is_not_scored(fleet: Fleet) -> None:
    handle = fleet.handle(fresh("task"))
    fleet.app.backend.store_result(handle.id, {"v": 1, "payload": f"payload:{'0' * 64}:7"}, "SUCCESS")
    with pytest.raises(PayloadLostError):
        handle.score("helpful", 1.0)


def test_scores_live_as_long_as_the_result(fleet: Fleet, redis: Redis) -> None:
    handle = end(fleet, ARM)
    result, key = fleet.results.key_of(handle.id), FleetKeys().scores(handle.id)
    redis.expire(result, 1_000)
    handle.score("helpful", 1.0)
    assert 990 <= redis.ttl(key) <= 1_000
    redis.expire(result, 2_000)
    handle.score("tone", 1.0)
    assert 1_990 <= redis.ttl(key) <= 2_000
    [minute] = redis.scan_iter("*counts*")
    assert scores.COUNTS_TTL_S - 10 <= redis.ttl(minute) <= scores.COUNTS_TTL_S
    redis.persist(result)
    handle.score("tone", 0.5)
    assert redis.ttl(key) == -1
    redis.expire(key, 10)


def test_a_prediction_has_so_many_scores_and_no_more(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "MAX_SCORES", 2)
    handle = end(fleet)
    handle.score("a", 1.0)
    handle.score("b", 1.0)
    with pytest.raises(ScoreError, match="has 2 scores already"):
        handle.score("c", 1.0)
    handle.score("a", 0.0)
    assert [(score.name, score.value) for score in handle.scores()] == [("a", 0.0), ("b", 1.0)]


def test_labels_without_bound_leave_numbers_counted(
    fleet: Fleet, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "_MAX_FIELDS_BEFORE_LABEL", 2)
    handles = [end(fleet, ARM) for _ in range(4)]
    for index, handle in enumerate(handles):
        handle.score("tone", f"text {index}")
    assert counts(redis) == {"s:tone:l:text 0": 1, "s:tone:l:text 1": 1}
    handles[3].score("tone", "text 0")
    handles[2].score("helpful", 1.0)
    assert counts(redis) == {"s:tone:l:text 0": 2, "s:tone:l:text 1": 1, "s:helpful:n": 1, "s:helpful:m": 1_000_000}
    for handle in handles:
        handle.score("tone", 0)
    assert counts(redis) == {"s:tone:n": 4, "s:helpful:n": 1, "s:helpful:m": 1_000_000}


values = st.one_of(st.floats(0, 1), st.booleans(), st.sampled_from(["good", "bad"]))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_scores=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "y"]), values), max_size=12))
def test_counts_are_those_of_the_scores_that_stand(fleet: Fleet, redis: Redis, given_scores: list[Any]) -> None:
    rollout = fresh("r")
    handle = end(fleet, {**ARM, "rollout": rollout})
    for name, scorer, value in given_scores:
        handle.score(name, value, scorer=scorer)
    expected: dict[str, int] = {}
    for (name, _), value in {(name, scorer): value for name, scorer, value in given_scores}.items():
        if isinstance(value, str):
            expected[f"s:{name}:l:{value}"] = expected.get(f"s:{name}:l:{value}", 0) + 1
        else:
            expected[f"s:{name}:n"] = expected.get(f"s:{name}:n", 0) + 1
            expected[f"s:{name}:m"] = expected.get(f"s:{name}:m", 0) + round(value * 1e6)
    assert counts(redis, rollout) == {field: amount for field, amount in expected.items() if amount}
