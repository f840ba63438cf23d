"""However a message ends before its task could, each of its predictions ends by name."""

from __future__ import annotations

import base64
import json
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Any

import dspy
import pytest
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import (
    BridgeError,
    DeadlineExceededError,
    PredictionCancelledError,
    PredictionFailedError,
    PredictionGivenUpError,
)
from snakepit_bridge.rollouts.records import POLICY_VARIABLE
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until

QUEUE = "predictions"
LIST = "predictions\x06\x163"  # where a priority of 5 waits
SOON_S = 15


@pytest.fixture(scope="module", params=["asyncio", "threads", "prefork"])
def play(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), pool=request.param) as play:
        play.fleet.register("qa", dspy.Predict("question -> answer"))
        yield play


def changed(play: Stage, change: Any, *, batch: bool) -> list[BridgeError | None]:
    """Send a message, change it before any worker gets it, and return how its predictions ended."""
    aside = Fleet(play.url, queue=fresh("aside"))
    inputs = [{"question": fresh("q")} for _ in range(3)]
    handles = aside.submit_batch("qa", inputs) if batch else [aside.submit("qa", inputs[0])]
    with Redis.from_url(play.url) as client:
        message: Any = json.loads(client.rpop(LIST.replace(QUEUE, aside.queue)))  # type: ignore[arg-type]
        message["properties"]["delivery_info"]["routing_key"] = QUEUE
        changes = change(message)
        client.lpush(LIST, json.dumps(changes if changes is not None else message))
    return [ended(play, handle.id) for handle in handles]


def ended(play: Stage, task_id: str) -> BridgeError | None:
    try:
        play.fleet.handle(task_id).get(SOON_S)
    except BridgeError as exc:
        return exc
    return None


def settled(play: Stage) -> None:
    with Redis.from_url(play.url) as client:
        wait_until(lambda: not client.keys("dspex:delivery:held:*"), "the message to be settled")


def body(text: bytes) -> Any:
    def change(message: dict[str, Any]) -> None:
        message["body"] = base64.b64encode(text).decode()

    return change


def header(name: str, value: Any) -> Any:
    def change(message: dict[str, Any]) -> None:
        message["headers"][name] = value

    return change


def field(name: str, value: Any) -> Any:
    def change(message: dict[str, Any]) -> None:
        message[name] = value

    return change


UNREADABLE = {
    "no JSON": body(b"{"),
    "empty": body(b""),
    "not UTF-8": body(b'["\xff"]'),
    "too deep": body(b"[" * 100_000),
    "no three parts": body(b"[1]"),
    "keywords that are none": body(b'[[[], "qa"], 5, {}]'),
    "no base64": field("body", "§"),
    "another serializer": field("content-type", "application/x-yaml"),
    "a pickle": field("content-type", "application/x-python-serialize"),
    "an unknown compression": header("compression", "application/x-odd"),
    "an odd eta": header("eta", "soon"),
    "an odd expiry": header("expires", "soon"),
    "an unknown task": header("task", "tasks.nothing"),
}


@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
@pytest.mark.parametrize("change", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_message_that_no_worker_can_take(play: Stage, change: Any, batch: bool) -> None:
    ends = changed(play, change, batch=batch)
    assert {type(end) for end in ends} <= {PredictionGivenUpError, PredictionFailedError}, ends
    assert len(ends) == (3 if batch else 1)
    settled(play)


@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
def test_a_message_that_has_expired(play: Stage, batch: bool) -> None:
    over = (datetime.now(UTC) - timedelta(seconds=5)).isoformat()
    assert {type(end) for end in changed(play, header("expires", over), batch=batch)} == {DeadlineExceededError}
    settled(play)


@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
def test_a_message_that_was_revoked(play: Stage, batch: bool) -> None:
    control = play.fleet.app.control

    def revoke(message: dict[str, Any]) -> None:
        control.revoke(message["headers"]["id"], reply=True)

    assert {type(end) for end in changed(play, revoke, batch=batch)} == {PredictionCancelledError}
    settled(play)


def test_a_message_that_is_revoked_while_it_runs(play: Stage) -> None:
    question = fresh("q")
    play.lm.hang(None, containing=question)
    handles = play.fleet.submit_batch("qa", [{"question": f"{question} {number}"} for number in range(3)])
    play.await_asked(question, 3)
    active: Any = play.fleet.app.control.inspect(timeout=3).active()
    [batch] = [task["id"] for tasks in active.values() for task in tasks]
    if "threads" not in str(play.worker.container.spec.pool):
        play.fleet.app.control.revoke(batch, terminate=True)
        assert {type(ended(play, handle.id)) for handle in handles} == {PredictionCancelledError}
        settled(play)
    play.lm.faults.clear()


@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
def test_a_task_that_runs_into_its_time_limit(play: Stage, batch: bool) -> None:
    if play.worker.container.spec.pool == "threads":
        pytest.skip("Celery's threads know no time limits")
    play.lm.hang(None)
    ends = changed(play, header("timelimit", [1.0, None]), batch=batch)
    play.lm.faults.clear()
    assert {type(end) for end in ends} == {PredictionFailedError}
    assert all("time limit" in str(end) for end in ends)
    settled(play)


def test_a_prediction_that_runs_into_its_time_limit_counts_for_its_arm(play: Stage) -> None:
    if play.worker.container.spec.pool == "threads":
        pytest.skip("Celery's threads know no time limits")
    session = fresh("session")
    context = play.fleet.session(session).blocking
    context.set_variables({"warmth": 0.1, POLICY_VARIABLE: '{"stages": [{"share": 0.5, "min_s": 86400}]}'})
    context.set_variable("warmth", 0.2)
    wait_until(
        lambda: play.fleet.submit("qa", {"question": fresh("q")}, session=session).get(PATIENCE_S).provenance.arms,
        "the first stage",
    )
    question = fresh("q")
    play.lm.hang(None, containing=question)
    sent = play.fleet.signature("qa", {"question": question}, session=session).apply_async(time_limit=1.0)
    assert "time limit" in str(ended(play, sent.id))
    play.lm.faults.clear()
    with Redis.from_url(play.url, decode_responses=True) as client:
        counted: Any = [client.hgetall(key) for key in client.scan_iter("dspex:{r:*}:counts:1:*")]
    assert sum(int(fields.get("e:PredictionFailedError", 0)) for fields in counted) == 1
    settled(play)


def test_the_end_of_a_message_is_the_end_of_the_chain_behind_it(play: Stage) -> None:
    aside = Fleet(play.url, queue=fresh("aside"))
    first = aside.signature("qa", {"question": fresh("q")})
    last = (first | aside.signature("qa", take={"question": "answer"})).apply_async()
    with Redis.from_url(play.url) as client:
        message: Any = json.loads(client.rpop(LIST.replace(QUEUE, aside.queue)))  # type: ignore[arg-type]
        message["headers"]["eta"] = "soon"
        client.lpush(LIST, json.dumps(message))
    assert isinstance(ended(play, last.id), PredictionGivenUpError)
