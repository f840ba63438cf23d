"""A fleet with signing keys: its own messages run whoever sends them, and nobody else's do."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from typing import Any

import dspy
import pytest
from celery import chord
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.delivery.dead_letters import DeadLetter
from snakepit_bridge.encryption.keys import KeyRing, generate_key
from snakepit_bridge.exceptions import PredictionTimeoutError
from snakepit_bridge.testing import AskedQuestion
from tests.harness.stage import Stage, echo, fresh, stage
from tests.harness.waiting import wait_until

KEY = generate_key("2026-11")


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    folder = tmp_path_factory.mktemp("signed")
    with stage(folder, signing_keys=KeyRing.parse(KEY), DSPEX_SIGNING_KEYS=KEY, answer=answer) as playing:
        playing.fleet.register("qa", dspy.Predict("question -> answer"))
        yield playing


def answer(ask: AskedQuestion) -> Mapping[str, Any]:
    return echo(ask)


def dead(play: Stage, task_id: str) -> DeadLetter:
    def find() -> DeadLetter | None:
        return next((letter for letter in play.fleet.dead_letters.latest() if letter.task_id == task_id), None)

    return wait_until(find, f"{task_id} to be dead")


def test_what_the_fleet_sends_runs(play: Stage) -> None:
    """A client's messages with and without a reservation, and what workers send: steps, chords' bodies, retries."""
    fleet = play.fleet
    assert fleet.submit("qa", {"question": "one"}).get().answer == "answer of one"
    batch = fleet.submit_batch("qa", [{"question": f"q{n}"} for n in range(3)], idempotency_keys=["a", "b", None])
    assert [handle.get().answer for handle in batch] == [f"answer of q{n}" for n in range(3)]
    steps = fleet.signature("qa", {"question": "x"}) | fleet.signature("qa", take={"question": "answer"})
    assert fleet.handle(steps.apply_async().id).get().answer == "answer of answer of x"
    fleet.register("judge", dspy.Predict("answers: list[str] -> verdict"))
    body = fleet.signature("judge", take={"answers": "answer"})
    judged = chord([fleet.signature("qa", {"question": q}) for q in "ab"])(body)
    assert fleet.handle(judged.id).get().verdict.startswith("verdict of ")
    question = fresh("retried")
    play.lm.fail(1, retry_after_s=3, containing=question)
    assert fleet.submit("qa", {"question": question}, deadline=30).get().answer == f"answer of {question}"
    assert play.fleet.dead_letters.count() == 0


def test_an_unsigned_message_is_refused_and_kept(play: Stage) -> None:
    handle = Fleet(play.url, wait_s=1).submit("qa", {"question": "unsigned"})
    letter = dead(play, handle.id)
    assert (letter.reason, letter.error) == (
        "forged", "it isn't signed. Its sender needs DSPEX_SIGNING_KEYS or its file",
    )  # fmt: skip
    assert "Refused a message in 'predictions'" in play.worker.logs()
    assert play.requests_with("unsigned") == []


def test_a_forged_message_ends_nobodys_prediction(play: Stage) -> None:
    """It names a prediction that waits, which then runs as if nothing had been."""
    with play.held():
        handle = play.fleet.submit("qa", {"question": "mine"})
        with Redis.from_url(play.url) as client:
            [queued] = [key for key in client.scan_iter("predictions*") if client.llen(key)]
            waiting: Any = client.lindex(queued, 0)
            forged = json.loads(waiting)
            forged["headers"]["reply_channel"] = "dspex:replies:eve"
            client.rpush(queued, json.dumps(forged))
    letter = dead(play, handle.id)
    assert letter.reason == "forged"
    assert "forged, or changed on its way" in letter.error
    assert handle.get().answer == "answer of mine"


def test_a_replayed_message_runs_nothing_while_its_result_is_kept(play: Stage) -> None:
    with play.held():
        handle = play.fleet.submit("qa", {"question": "replayed"})
        with Redis.from_url(play.url) as client:
            [queued] = [key for key in client.scan_iter("predictions*") if client.llen(key)]
            message: Any = client.lindex(queued, 0)
    assert handle.get().answer == "answer of replayed"
    with Redis.from_url(play.url) as client:
        client.lpush(queued, message)
        wait_until(lambda: client.llen(queued) == 0, "the copy to be claimed")
    assert play.fleet.submit("qa", {"question": "behind it"}, priority=0).get().answer
    assert len(play.requests_with("replayed")) == 1


def test_an_arm_of_celery_that_calls_tasks_is_no_way_around(play: Stage) -> None:
    """``celery.map`` would call the task in the worker with arguments of the sender's choice."""
    stranger = Fleet(play.url, wait_s=1)
    task = {"task": "tasks.predict", "args": [], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}
    sent = stranger.app.send_task("celery.map", kwargs={"task": task, "it": ["x"]}, queue=stranger.queue)
    assert dead(play, sent.id).reason == "forged"
    with pytest.raises(PredictionTimeoutError):
        stranger.handle(sent.id).get(0.2)
