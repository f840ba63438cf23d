"""The result backend: a task's end is committed once, in Celery's own form, and told to whoever waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import BackendStoreError
from redis import Redis

from config.settings import FleetSettings
from snakepit_bridge.client import Fleet
from snakepit_bridge.client.message_encoder import EncodedMessage
from snakepit_bridge.costs.usage import LMUsage
from snakepit_bridge.exceptions import PredictionCancelledError, PredictionGivenUpError
from snakepit_bridge.lm.captured_calls import CallCapture, CapturedCall
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.messages import Result
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.rollouts.records import ArmAssignment
from tasks.preparation import encode_arms
from tasks.subject import Subject, current_subject
from workers.app import FleetApp
from workers.result_backend import CommitBackend


@pytest.fixture
def app(redis_url: str) -> FleetApp:
    return FleetApp(FleetSettings.model_validate({"redis_url": redis_url, "result_expires_s": 600}))


def stored(url: str, task_id: str) -> dict[str, Any]:
    with Redis.from_url(url) as client:
        found: Any = client.get(f"celery-task-meta-{task_id}")
    return json.loads(found)


def test_what_is_given_up_counts_for_the_arms_that_it_lost_a_worker_under(app: FleetApp, redis_url: str) -> None:
    arm, keys = ArmAssignment("r1", "candidate", 2, "session:s"), FleetKeys()
    with Redis.from_url(redis_url, decode_responses=True) as client:
        client.set(keys.prediction_arms("lost"), encode_arms([arm]), ex=60)
        for task_id in ("lost", "lost", "another"):
            app.backend.commit_now(task_id, PredictionGivenUpError(task_id, "workers", "lost"), "FAILURE")
        [counted] = client.scan_iter("dspex:{r:r1}:counts:2:candidate:*")
        assert client.hgetall(counted) == {"n": "1", "e:PredictionGivenUpError": "1"}


def test_it_is_the_backend_of_the_fleets_app(app: FleetApp) -> None:
    assert type(app.backend) is CommitBackend


@pytest.mark.parametrize(
    "value",
    [0.1 + 0.2, 1e300, -0.0, float("nan"), float("-inf"), 10**40, "ü 𝄞 \u2028", "\ud800", [[None, True]], {"": {}}],
)
def test_a_predictions_result_reads_as_if_celery_had_written_it(app: FleetApp, redis_url: str, value: Any) -> None:
    result = Result({"answer": value}, {"started_at": 1.5}, {"question": value}).encode()
    app.backend.store_result("task", result, "SUCCESS")
    found = stored(redis_url, "task")
    assert repr(found["result"]) == repr(json.loads(app.backend.encode(result)))
    assert (found["status"], found["task_id"], found["traceback"]) == ("SUCCESS", "task", None)
    assert Celery(backend=redis_url, broker=redis_url, set_as_current=False).AsyncResult("task").state == "SUCCESS"


def test_a_deep_result_is_stored_too(app: FleetApp, redis_url: str) -> None:
    deep: Any = []
    for _ in range(400):
        deep = [deep]
    app.backend.store_result("task", Result({"answer": deep}, {}, {}).encode(), "SUCCESS")
    assert stored(redis_url, "task")["result"]["outputs"]["answer"] == deep


def captured_calls(task_id: str) -> CallCapture:
    capture = CallCapture(task_id, "s")
    capture.add(CapturedCall("demo", "demo", 1.0, 0.5, LMUsage(calls=1)))
    return capture


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE"])
def test_captured_lm_calls_are_kept_as_long_as_the_end_that_counts(app: FleetApp, redis_url: str, state: str) -> None:
    token = current_subject.set(Subject("task", capture=captured_calls("task"), arms=()))
    try:
        app.backend.store_result("task", None, "STARTED")
        assert Fleet(redis_url).lm_calls("task") is None
        app.backend.store_result("task", ended(state), state)
        app.backend.store_result("another", ended(state), state)
    finally:
        current_subject.reset(token)
    token = current_subject.set(Subject("task", capture=CallCapture("task", "later")))
    try:
        app.backend.store_result("task", "another end", "SUCCESS")
    finally:
        current_subject.reset(token)
    found, keys = Fleet(redis_url).lm_calls("task"), FleetKeys()
    assert found is not None
    assert (found.session, [call.profile for call in found.calls]) == ("s", ["demo"])
    with Redis.from_url(redis_url) as client:
        lifetimes = [client.ttl(name) for name in (keys.prediction_lm_calls("task"), "celery-task-meta-task")]
        assert client.exists(keys.prediction_lm_calls("another")) == 0
    assert 0 < lifetimes[0] <= 600
    assert lifetimes[0] in (lifetimes[1], lifetimes[1] - 1)


def ended(state: str) -> Any:
    return "result" if state == "SUCCESS" else ValueError(state)


@pytest.mark.parametrize("final", ["SUCCESS", "FAILURE", "REVOKED"])
@pytest.mark.parametrize("later", ["SUCCESS", "FAILURE", "RETRY"])
def test_the_first_end_stays(app: FleetApp, redis_url: str, final: str, later: str) -> None:
    app.backend.store_result("task", ended(final), final)
    before = stored(redis_url, "task")
    app.backend.store_result("task", ended(later), later)
    assert stored(redis_url, "task") == before


@pytest.mark.parametrize("between", ["RETRY", "STARTED"])
def test_what_is_no_end_gives_way(app: FleetApp, redis_url: str, between: str) -> None:
    app.backend.store_result("task", ValueError("again") if between == "RETRY" else None, between)
    app.backend.store_result("task", {"v": 1}, "SUCCESS")
    assert (stored(redis_url, "task")["status"], stored(redis_url, "task")["result"]) == ("SUCCESS", {"v": 1})


def test_a_cancellation_by_the_client_holds_against_the_running_task(app: FleetApp, redis_url: str) -> None:
    fleet = Fleet(redis_url)
    assert fleet.handle("task").cancel()
    app.backend.store_result("task", {"v": 1}, "SUCCESS")
    with pytest.raises(PredictionCancelledError):
        fleet.handle("task").get(1)


def test_what_it_writes_is_what_stock_celery_writes(app: FleetApp, redis_url: str) -> None:
    stock = Celery("stock", set_as_current=False, backend=redis_url)
    stock.conf.result_expires = 600
    stock.backend.store_result("theirs", {"a": ["ü", 1.5]}, "SUCCESS")
    app.backend.store_result("ours", {"a": ["ü", 1.5]}, "SUCCESS")
    ours, theirs = stored(redis_url, "ours"), stored(redis_url, "theirs")
    assert {**ours, "task_id": "", "date_done": ""} == {**theirs, "task_id": "", "date_done": ""}
    assert stock.AsyncResult("ours").get(timeout=1) == {"a": ["ü", 1.5]}
    with Redis.from_url(redis_url) as client:
        assert 590 <= client.ttl("celery-task-meta-ours") <= 600


def test_an_end_that_is_written_in_another_order_is_found(app: FleetApp, redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        client.set("celery-task-meta-task", '{"result": null, "status": "REVOKED"}', ex=60)
    app.backend.store_result("task", 1, "SUCCESS")
    assert stored(redis_url, "task")["status"] == "REVOKED"


def test_an_end_is_told_on_the_tasks_channel_once(app: FleetApp, redis_url: str) -> None:
    with Redis.from_url(redis_url) as client, client.pubsub() as subscriber:
        subscriber.subscribe("celery-task-meta-told")
        assert subscriber.get_message(timeout=2)
        app.backend.store_result("told", 1, "SUCCESS")
        app.backend.store_result("told", 2, "SUCCESS")
        message: Any = subscriber.get_message(timeout=2)
        assert json.loads(message["data"])["result"] == 1
        assert subscriber.get_message(timeout=0.2) is None


def test_a_result_beyond_what_redis_takes_is_refused(app: FleetApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CommitBackend, "_MAX_STR_VALUE_SIZE", 100)
    with pytest.raises(BackendStoreError, match="too large"):
        app.backend.store_result("task", "x" * 200, "SUCCESS")


# ---------------------------------------------------------------- from the event loop


def commit(app: FleetApp, task_id: str, result: Any, state: str, **more: Any) -> bytes | None:
    return run_blocking(app.backend.acommit(task_id, result, state, **more))


def test_the_first_to_commit_wins_and_the_others_get_its_bytes(app: FleetApp, redis_url: str) -> None:
    assert commit(app, "task", {"v": 1}, "SUCCESS") is None
    before = stored(redis_url, "task")
    for result, state in (({"v": 2}, "SUCCESS"), (ValueError("late"), "FAILURE")):
        won = commit(app, "task", result, state)
        assert won is not None
        assert json.loads(won) == before
    assert stored(redis_url, "task") == before


def test_a_commit_that_is_repeated_after_a_lost_answer_is_the_same_commit(app: FleetApp, redis_url: str) -> None:
    call = app.backend._script_arguments("task", {"v": 1}, "SUCCESS", None, None, "")
    assert [run_blocking(app.backend._commit_pipelined("t-1", *call, "SUCCESS", {"v": 1})) for _ in range(2)] == [
        None,
        None,
    ]
    assert stored(redis_url, "task")["result"] == {"v": 1}


@contextmanager
def leaving(task_id: str, *texts: str) -> Generator[None]:
    """Within it, a prediction leaves these messages to the commit of its result."""
    messages = tuple(EncodedMessage("predictions", text.encode()) for text in texts)
    token = current_subject.set(Subject(task_id, messages=messages))
    try:
        yield
    finally:
        current_subject.reset(token)


def enqueued(url: str) -> list[bytes]:
    with Redis.from_url(url) as client:
        found: Any = client.lrange("predictions", 0, -1)
    return found[::-1]


def test_the_commit_of_a_result_enqueues_what_the_prediction_left_to_it_once(app: FleetApp, redis_url: str) -> None:
    with leaving("task", "first", "second"):
        call = app.backend._script_arguments("task", {"v": 1}, "SUCCESS", None, None, "")
        for _ in range(2):
            run_blocking(app.backend._commit_pipelined("t-1", *call, "SUCCESS", {"v": 1}))
        commit(app, "task", {"v": 2}, "SUCCESS")
    assert enqueued(redis_url) == [b"first", b"second"]


def test_what_a_prediction_left_to_a_commit_that_does_not_count_is_not_enqueued(app: FleetApp, redis_url: str) -> None:
    Fleet(redis_url).handle("cancelled").cancel()
    for task_id, state in (("cancelled", "SUCCESS"), ("failed", "FAILURE"), ("retried", "RETRY")):
        with leaving(task_id, task_id):
            commit(app, task_id, {"v": 1} if state == "SUCCESS" else ValueError("no"), state)
            commit(app, "another", {"v": 1}, "SUCCESS")
    assert enqueued(redis_url) == []


def test_the_client_is_told_which_task_ended_and_the_stock_channel_how(app: FleetApp, redis_url: str) -> None:
    with Redis.from_url(redis_url) as client, client.pubsub() as subscriber:
        subscriber.subscribe("replies", "celery-task-meta-task")
        assert subscriber.get_message(timeout=2)
        assert subscriber.get_message(timeout=2)
        commit(app, "task", 1, "SUCCESS", reply_channel="replies")
        heard: dict[bytes, Any] = {}
        while len(heard) < 2:
            message: Any = subscriber.get_message(timeout=2)
            heard[message["channel"]] = message["data"]
    assert heard[b"replies"] == b"task"
    assert json.loads(heard[b"celery-task-meta-task"])["result"] == 1


def test_errors_are_committed_as_celery_writes_them(app: FleetApp, redis_url: str) -> None:
    commit(app, "ours", LookupError("gone"), "FAILURE")
    app.backend.store_result("theirs", LookupError("gone"), "FAILURE")
    assert stored(redis_url, "ours")["result"] == stored(redis_url, "theirs")["result"]


def test_many_commits_of_one_tick_are_one_round_trip(app: FleetApp, redis_url: str) -> None:
    async def all_at_once() -> None:
        await asyncio.gather(*(app.backend.acommit(f"task-{number}", number, "SUCCESS") for number in range(50)))

    run_blocking(app.backend.acommit("first", 0, "SUCCESS"))
    with Redis.from_url(redis_url) as client:
        reads = client.info("stats")["total_reads_processed"]
        run_blocking(all_at_once())
        assert client.info("stats")["total_reads_processed"] - reads < 10
    assert stored(redis_url, "task-49")["result"] == 49
