"""Programs that execute code run on prefork, whichever worker their message came to first."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import dspy
import pytest
from redis import Redis

from snakepit_bridge.cli.doctor import _code
from snakepit_bridge.cli.status import collect_status
from snakepit_bridge.client import Fleet
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until

WAIT_S = PATIENCE_S


@pytest.fixture(scope="module", params=["asyncio", "threads"])
def play(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), pool=request.param) as play:
        play.fleet.register("code", dspy.Predict("question -> answer"), executes_code=True)
        play.fleet.register("plain", dspy.Predict("question -> answer"))
        yield play


@pytest.fixture(autouse=True)
def undisturbed(play: Stage) -> Generator[None]:
    """Leave nothing for the workers of the next test."""
    yield
    with Redis.from_url(play.url) as client:
        for name in client.scan_iter("predictions.code*"):
            client.delete(name)


def waiting(play: Stage) -> dict[str, Any]:
    return collect_status(play.fleet)["code"]


# ---------------------------------------------------------------- while no worker takes from their queue


def test_a_prediction_that_was_handed_on_can_be_cancelled(play: Stage) -> None:
    sent = play.fleet.submit("code", {"question": fresh("q")})
    wait_until(lambda: waiting(play)["waiting"] == 1, "it to be handed on")
    assert sent.cancel()
    assert sent.status == "REVOKED"


def test_the_message_is_the_same_after_its_move(play: Stage) -> None:
    fleet = Fleet(play.url)
    sent = fleet.submit("code", {"question": fresh("q")}, priority=5)
    wait_until(lambda: waiting(play)["waiting"] == 1, "it to be handed on")
    with Redis.from_url(play.url) as client:
        [name] = client.keys("predictions.code*")
        [raw] = client.lrange(name, 0, -1)
    assert json.loads(raw)["headers"]["id"] == sent.id


# ---------------------------------------------------------------- with a worker that does


def test_they_wait_for_prefork_and_run_there(play: Stage) -> None:
    question = fresh("q")
    sent = play.fleet.submit("code", {"question": question}, priority=9)
    batch = play.fleet.submit_batch("code", [{"question": f"{question} {number}"} for number in range(3)])
    wait_until(lambda: waiting(play)["waiting"] == 2, "both messages to be handed on")
    assert waiting(play) == {"name": "predictions.code", "waiting": 2, "consumed": False}
    assert play.requests_with(question) == []
    assert (_code(play.fleet).level, _code(play.fleet).fix) == ("fail", "start one: dspex-fleet worker --pool prefork")
    assert not sent.ready()

    # What doesn't execute code isn't held up.
    assert play.fleet.submit("plain", {"question": question}).get(WAIT_S).answer == f"answer of {question}"

    prefork = play.start(pool="prefork", concurrency=2, queues=("predictions", "predictions.code"), name="prefork")
    prediction = sent.get(WAIT_S)
    assert prediction.answer == f"answer of {question}"
    assert prediction.provenance.worker == prefork.container.node
    assert [handle.get(WAIT_S).answer for handle in batch] == [f"answer of {question} {number}" for number in range(3)]
    assert waiting(play) == {"name": "predictions.code", "waiting": 0, "consumed": True}
    assert _code(play.fleet).level == "ok"
    prefork.kill()


def test_a_worker_that_takes_from_their_queue_runs_them_whatever_its_pool(play: Stage) -> None:
    play.worker.kill()
    play.start(pool="threads", queues=("predictions", "predictions.code"), name="both")
    question = fresh("q")
    assert play.fleet.submit("code", {"question": question}).get(WAIT_S).answer == f"answer of {question}"
    assert waiting(play)["waiting"] == 0
