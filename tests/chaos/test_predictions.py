"""Real predictions, whose worker is killed while the LM thinks, or goes down with it again and again."""

from __future__ import annotations

import signal
from collections.abc import Generator
from typing import Any

import dspy
import pytest
from redis import Redis

from snakepit_bridge.exceptions import PredictionGivenUpError
from tests.harness.broker import dead, held
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until

SETTINGS: dict[str, Any] = {"DSPEX_LEASE_S": "1", "DSPEX_MAX_DELIVERIES": "2"}

pytestmark = pytest.mark.chaos


@pytest.fixture
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), worker=False, **SETTINGS) as play:
        play.fleet.register("plain", dspy.Predict("question -> answer"))
        yield play


def submit(play: Stage) -> tuple[str, Any]:
    question = fresh("q")
    return question, play.fleet.submit("plain", {"question": question})


def claims(play: Stage) -> int:
    with Redis.from_url(play.url) as client:
        return len(held(client))


@pytest.mark.timeout(180)
def test_a_killed_workers_predictions_are_answered_by_another_and_a_poison_is_given_up(play: Stage) -> None:
    first = play.start(pool="asyncio", concurrency=8)
    play.lm.hang(containing="q-", times=4)
    handles = [submit(play) for _ in range(4)]
    for question, _ in handles:
        play.await_asked(question)
    second = play.start(pool="asyncio", concurrency=8)
    first.kill(signal.SIGKILL)
    for question, handle in handles:
        assert handle.get(PATIENCE_S).answer == f"answer of {question}"
        assert len(play.requests_with(question)) == 2, "nobody had seen the first answer"
    wait_until(lambda: claims(play) == 0, "the acknowledgements")

    play.lm.hang(containing="q-", times=None)
    question, handle = submit(play)
    for place, worker in enumerate((second, play.start(pool="asyncio", concurrency=8))):
        play.await_asked(question, place + 1)
        worker.kill(signal.SIGKILL)
    play.start(pool="asyncio", concurrency=8)
    with pytest.raises(PredictionGivenUpError, match="missed its heartbeats"):
        handle.get(PATIENCE_S)
    with Redis.from_url(play.url) as client:
        (entry,) = dead(client)
    assert (entry["reason"], entry["task_id"], entry["deliveries"]) == ("lost", handle.id, 2)
