"""Recording in the script that commits a result: once for each prediction, bounded and expiring; and what is read."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from redis import Redis

from config.settings import FleetSettings
from snakepit_bridge.client import Fleet
from snakepit_bridge.datasets.recorded import RecordedPrediction, RecordedPredictions
from snakepit_bridge.datasets.recorders import Recorder
from snakepit_bridge.exceptions import DatasetError, InputError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.messages import Result
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from tasks.subject import PendingRecord, Subject, current_subject
from tests.unit.protocol.test_provenance import SAMPLE
from workers.app import FleetApp

KEYS = FleetKeys()
STREAM = KEYS.program_records("qa")


@pytest.fixture
def app(redis_url: str) -> FleetApp:
    return FleetApp(FleetSettings.model_validate({"redis_url": redis_url, "result_expires_s": 600}))


@pytest.fixture
def predictions(connection: RedisConnection) -> RecordedPredictions:
    return RecordedPredictions(connection, "dspex")


@contextmanager
def pending(task_id: str, record: bytes, state: str = "SUCCESS", **changes: Any) -> Generator[None]:
    """Within it, the prediction's end is to be recorded."""
    recorder = Recorder("qa", **changes)
    token = current_subject.set(Subject(task_id, record=PendingRecord(state, recorder, record)))
    try:
        yield
    finally:
        current_subject.reset(token)


def encode(number: int = 0, **changes: Any) -> bytes:
    outputs = {"answer": f"a{number}"}
    return RecordedPrediction("", "qa", 1, "s", "1.2", {"q": number}, outputs, **changes).encode()


def commit(app: FleetApp, task_id: str, record: bytes, state: str = "SUCCESS", **changes: Any) -> None:
    end = Result({"answer": "a"}, SAMPLE.encode()).encode() if state == "SUCCESS" else InputError("qa", "q", "missing")
    with pending(task_id, record, **changes):
        app.backend.store_result(task_id, end, state)


async def read(predictions: RecordedPredictions, since: float = 0.0) -> list[RecordedPrediction]:
    return [each async for page in predictions.read("qa", since=since) for each in page]


def test_a_prediction_is_recorded_once_by_the_commit_that_counts(app: FleetApp, client: Redis) -> None:
    commit(app, "t1", encode(1))
    commit(app, "t1", encode(2))  # by a worker that ran it again
    assert client.xlen(STREAM) == 1
    predictions = RecordedPredictions(RedisConnection(app.settings.redis), "dspex")
    [record] = run_blocking(read(predictions))
    assert run_blocking(predictions.find("t1")) == record
    assert (record.task_id, record.inputs, record.outputs) == ("t1", {"q": 1}, {"answer": "a1"})
    assert abs(record.at - time.time()) < 30


def test_what_ends_otherwise_or_is_cancelled_is_not_recorded(app: FleetApp, redis_url: str, client: Redis) -> None:
    commit(app, "t1", encode(1), "FAILURE")
    assert Fleet(redis_url).handle("t2").cancel()
    commit(app, "t2", encode(2))
    app.backend.store_result("t3", {}, "SUCCESS")
    assert client.exists(STREAM) == 0


def test_an_error_is_recorded(app: FleetApp, client: Redis) -> None:
    with pending("t1", encode(1, error="InputError"), "FAILURE"):
        app.backend.store_result("t1", InputError("qa", "q", "missing"), "FAILURE")
    assert client.xlen(STREAM) == 1


def test_a_stream_is_bounded_by_number_and_age(app: FleetApp, client: Redis) -> None:
    client.xadd(STREAM, {"task": "old", "record": encode()}, id="1000-1")
    for number in range(12):
        commit(app, f"t{number}", encode(number), max_records=5, expires_s=100)
    entries: Any = client.xrange(STREAM)
    assert [fields[b"task"] for _, fields in entries] == [f"t{number}".encode() for number in range(7, 12)]
    commit(app, "new", encode(), max_records=5, expires_s=50)
    for key in (STREAM, KEYS.prediction_recorded("new")):
        assert 40 < int(client.ttl(key)) <= 50  # type: ignore[arg-type]


def test_an_old_record_goes_with_the_next_prediction(app: FleetApp, client: Redis) -> None:
    minute_ago_ms = int(time.time() * 1_000) - 60_000
    for number, age_ms in enumerate((5_000, 0)):
        client.xadd(
            STREAM, {"task": f"old{number}", "record": encode()}, id=f"{minute_ago_ms - age_ms + number * 5_000}-0"
        )
    commit(app, "t1", encode(), expires_s=62)
    entries: Any = client.xrange(STREAM)
    assert [fields[b"task"] for _, fields in entries] == [b"old1", b"t1"]


def test_a_key_of_another_type_costs_no_result(app: FleetApp, client: Redis) -> None:
    client.set(STREAM, "of the application", ex=60)
    commit(app, "t1", encode())
    assert client.exists("celery-task-meta-t1") == 1


def test_scores_of_a_recorded_prediction_are_kept_longer_than_its_result(app: FleetApp, redis_url: str) -> None:
    fleet = Fleet(redis_url)
    commit(app, "t1", encode(), expires_s=5_000)
    commit(app, "t2", encode(), state="FAILURE")
    fleet.score("t1", "helpful", 0.25)
    fleet.score("t2", "helpful", 0.25)
    with Redis.from_url(redis_url) as client:
        assert 4_900 < int(client.ttl(KEYS.scores("t1"))) <= 5_000  # type: ignore[arg-type]
        assert 500 < int(client.ttl(KEYS.scores("t2"))) <= 600  # type: ignore[arg-type]


async def test_all_pages_are_read_newest_first(predictions: RecordedPredictions, client: Redis) -> None:
    for number in range(450):
        client.xadd(STREAM, {"task": f"t{number}", "record": encode(number)}, id=f"{1_000 + number // 2}-{number % 2}")
    client.expire(STREAM, 60)
    found = await read(predictions)
    assert [each.inputs["q"] for each in found] == list(range(450))[::-1]
    assert [each.inputs["q"] for each in await read(predictions, since=1.22)] == list(range(440, 450))[::-1]
    count = await predictions.count("qa")
    assert (count.records, count.oldest) == (450, 1.0)
    await predictions.erase("qa")
    assert (await predictions.count("qa")).records == 0
    assert await read(predictions) == []


def test_a_dataset_is_built_of_what_was_scored(app: FleetApp, redis_url: str) -> None:
    fleet = Fleet(redis_url)
    for number in range(6):
        commit(app, f"t{number}", encode(number))
        fleet.score(f"t{number}", "helpful", number / 10)
    low = fleet.datasets.from_predictions("qa", "low", scores=["helpful<0.35"], since_s=60, limit=3, author="ana")
    assert [row["q"] for row in low.rows] == [1, 2, 3]
    assert low.rows[0] == {"q": 1, "answer": "a1", "score_helpful": 0.1}
    version = fleet.datasets.find("low")
    assert (version.author, version.source.startswith("predictions of qa: helpful<0.35, since ")) == ("ana", True)
    assert fleet.datasets.from_predictions("qa", "low", scores=["helpful<0.35"], limit=3).version == 1
    with pytest.raises(DatasetError, match="none of the recorded predictions of 'qa' is selected"):
        fleet.datasets.from_predictions("qa", "none", scores=["helpful>0.9"])
    run_blocking(fleet.connection.aclose())
