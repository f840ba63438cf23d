"""Records of evaluations in Redis: stored once, listed newest first, and gone when they expire."""

from __future__ import annotations

import time

import pytest

from snakepit_bridge.evaluations import record_store
from snakepit_bridge.evaluations.record_store import EvaluationPlace, EvaluationStore
from snakepit_bridge.evaluations.records import EvaluationKey, EvaluationRecord, EvaluationSubject, ExampleResult
from snakepit_bridge.exceptions import EvaluationNotFoundError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys

SUBJECT = EvaluationSubject("qa", 3, "default", "1.2", "golden", 1, "exact", "mypkg:exact", "workers")
RESULTS = [ExampleResult("a", True, inputs={"question": "?"}), ExampleResult("b", None, "ValueError", "no")]


@pytest.fixture
def store(redis_url: str) -> EvaluationStore:
    return EvaluationStore(RedisConnection(redis_url), FleetKeys())


def record(number: int) -> EvaluationRecord:
    key = EvaluationKey(str(number), "values", "dataset", "metric")
    return EvaluationRecord.build(key, SUBJECT, RESULTS, started_at=1.0, ended_at=2.0)


async def test_a_record_is_found_by_its_id_and_by_its_beginning(store: EvaluationStore) -> None:
    first = record(1)
    await store.put(first, RESULTS)
    assert await store.find(first.id) == first == await store.get(first.id[:6])
    assert await store.results(first.id[:6]) == RESULTS
    assert await store.find("0" * 32) is None


@pytest.mark.parametrize(("unknown", "problem"), [("0" * 32, "no such record"), ("000000", "no such"), ("ab", "six|6")])
async def test_an_unknown_record_is_said_to_be_unknown(store: EvaluationStore, unknown: str, problem: str) -> None:
    await store.put(record(1), RESULTS)
    for read in (store.get, store.results):
        with pytest.raises(EvaluationNotFoundError, match=problem):
            await read(unknown)


async def test_the_newest_records_are_listed_first_without_those_that_have_expired(store: EvaluationStore) -> None:
    records = [record(number) for number in range(5)]
    for each in records:
        await store.put(each, RESULTS)
    await store._connection.execute("DEL", FleetKeys().evaluation(records[4].id))
    assert await store.list(limit=3) == [records[3], records[2], records[1]]
    assert await store.list() == records[3::-1]


async def test_pages_go_on_where_the_one_before_ended(store: EvaluationStore, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record(number) for number in range(5)]
    for each in records[:4]:
        await store.put(each, RESULTS)
    at = time.time() - 60
    at_once = [part for each in records[:4] for part in (at, each.id)]
    await store._connection.execute("ZADD", FleetKeys().evaluations, *at_once)
    ordered = sorted(records[:4], key=lambda each: each.id, reverse=True)
    first = await store.read_page(size=3)
    assert list(first.records) == ordered[:3]
    await store.put(records[4], RESULTS)  # newer than all, so that it would move pages that are counted
    last = await store.read_page(size=3, after=EvaluationPlace.parse(first.next_token))
    assert (list(last.records), last.next_token) == (ordered[3:], "")
    monkeypatch.setattr(record_store, "MAX_SEARCHED", 2)
    sparse = await store.read_page(size=1, program="absent")
    assert (list(sparse.records), bool(sparse.next_token)) == ([], True)
    assert await store.list(program="absent") == []
    assert await store.list(program=SUBJECT.program) == [records[4], *ordered]


@pytest.mark.parametrize("token", ["x", "1", "1:", "1:xyz", "inf:0", "-1:0", "1:٣", "1.:0"])
def test_a_place_that_can_not_be_one_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="next_page_token"):
        EvaluationPlace.parse(token)


async def test_a_record_expires(store: EvaluationStore) -> None:
    await store.put(record(1), RESULTS, keep_s=50)
    assert 0 < await store._connection.execute("TTL", FleetKeys().evaluation(record(1).id)) <= 50
