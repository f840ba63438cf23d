"""A cancelled prediction stops asking the LM at once, and one whose deadline is over never asks it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from pathlib import Path

import dspy
import pytest
from redis import Redis

from snakepit_bridge.client.handle import Handle
from snakepit_bridge.exceptions import DeadlineExceededError, PredictionCancelledError
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import Stopwatch, wait_until

SOON_S = 20
LEFT = 499


class InAThread(dspy.Module):
    """A module without an ``acall`` of its own, which asks twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict("question -> answer")
        self.second = dspy.Predict("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        """Ask, whatever became of the first question."""
        # As careless as a user's program may be.
        with contextlib.suppress(Exception):
            self.first(question=question)
        return self.second(question=f"again {question}")


@pytest.fixture(scope="module", params=["threads", "asyncio", "prefork"])
def play(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    folder: Path = tmp_path_factory.mktemp("cancellation")
    with stage(folder, pool=request.param, DSPEX_ALLOWED_PACKAGES="tests") as playing:
        playing.fleet._allowed = ("tests",)
        playing.fleet.register("qa", dspy.Predict("question -> answer"))
        playing.fleet.register("in-a-thread", InAThread())
        yield playing


def cancelled(handle: Handle) -> float:
    """Cancel; return the moment."""
    at = time.time()
    assert handle.cancel()
    return at


@pytest.mark.parametrize("program", ["qa", "in-a-thread"])
def test_a_cancelled_prediction_leaves_the_provider_within_a_quarter_of_a_second(play: Stage, program: str) -> None:
    question = fresh("q")
    play.lm.hang(None, containing=question)
    handle = play.fleet.submit(program, {"question": question})
    play.await_asked(question)
    watch = Stopwatch()
    at = cancelled(handle)
    left = wait_until(lambda: _left_at(play, question), "the LM sees the client leave")

    assert left - at - watch.queued_s < 0.25
    with pytest.raises(PredictionCancelledError):
        handle.get(SOON_S)
    # Its place is free, and it asks nothing more.
    assert play.fleet.submit("qa", {"question": fresh("next")}).get(SOON_S).answer
    assert [sent.status for sent in play.requests_with(question)] == [LEFT]


def _left_at(play: Stage, question: str) -> float | None:
    (sent,) = play.requests_with(question)
    return sent.answered_at if sent.status == LEFT else None


def test_a_cancellation_that_was_never_told_is_found_within_seconds(play: Stage) -> None:
    question = fresh("q")
    play.lm.hang(None, containing=question)
    handle = play.fleet.submit("qa", {"question": question})
    play.await_asked(question)
    with Redis.from_url(play.url) as client:
        client.set(f"celery-task-meta-{handle.id}", '{"status": "REVOKED", "result": null}', ex=60)

    wait_until(lambda: _left_at(play, question), "the LM sees the client leave", timeout_s=4)


def test_a_pause_before_the_next_try_ends_with_the_cancellation(play: Stage) -> None:
    question = fresh("q")
    play.lm.fail(None, status=429, retry_after_s=1.5, containing=question)
    handle = play.fleet.submit("qa", {"question": question})
    play.await_asked(question)
    cancelled(handle)
    # Four places: all four are free again at once.
    others = [play.fleet.submit("qa", {"question": fresh("other")}) for _ in range(4)]
    assert all(other.get(SOON_S).answer for other in others)
    time_of_the_next_try = play.requests_with(question)[0].received_at + 2
    wait_until(lambda: time.time() > time_of_the_next_try, "the time of the next try is over")
    assert len(play.requests_with(question)) == 1


@pytest.mark.parametrize("program", ["qa", "in-a-thread"])
def test_a_deadline_ends_the_request(play: Stage, program: str) -> None:
    question = fresh("q")
    assert play.fleet.submit(program, {"question": fresh("before")}).get(SOON_S).answer
    play.lm.hang(None, containing=question)
    play.expire_at_lm(program, question, 1.5)

    wait_until(lambda: _left_at(play, question), "the LM sees the client leave")
    assert len(play.requests_with(question)) == 1


def test_an_expired_prediction_never_asks(play: Stage) -> None:
    question = fresh("q")
    with play.held():
        handle = play.fleet.submit("qa", {"question": question}, deadline=0.3)
        over = time.time() + 0.4
        wait_until(lambda: time.time() > over, "the deadline is over")
    with pytest.raises(DeadlineExceededError):
        handle.get(SOON_S)
    assert play.requests_with(question) == []
