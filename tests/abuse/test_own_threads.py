"""Code that blocks holds up nobody, and an LM call in a program's own thread is its prediction's."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from snakepit_bridge.exceptions import LMCallOutsidePredictionError, PredictionCancelledError
from tests.harness import threaded
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until

# Registering a program runs it without an LM, so that threads of its own fail in this process.
pytestmark = pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")

WAIT_S = PATIENCE_S


OTHERS = (threaded.InForeignThread, threaded.Lingering, threaded.ComesLast)


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), worker=False, DSPEX_ALLOWED_PACKAGES="tests") as play:
        play.start(pool="asyncio", concurrency=1_000)
        for kind in (*threaded.WAYS, *OTHERS):
            play.fleet.register(kind.__name__, kind())
        yield play


def test_hundreds_of_programs_that_block_on_a_cold_worker_hold_up_nothing(play: Stage) -> None:
    mark = fresh("q")
    sent = [play.fleet.submit("InThreads", {"question": f"{mark} {number}"}, deadline=30) for number in range(400)]
    for handle in sent:
        assert mark in handle.get(WAIT_S).answer


@pytest.mark.parametrize("kind", threaded.WAYS)
def test_a_call_in_a_thread_of_the_programs_own_is_its_predictions(play: Stage, kind: type[Any]) -> None:
    marks = [fresh("q") for _ in range(3)]
    sent = [play.fleet.submit(kind.__name__, {"question": mark}) for mark in marks]
    for mark, handle in zip(marks, sent, strict=True):
        prediction = handle.get(WAIT_S)
        assert prediction.answer == f"answer of {mark} first | answer of {mark} second"
        assert prediction.provenance.answered == {"demo": 2}


@pytest.mark.parametrize("kind", [threaded.InPool, threaded.InThreads])
def test_its_cancellation_ends_what_the_thread_asks(play: Stage, kind: type[Any]) -> None:
    mark = fresh("q")
    play.lm.delay(2)
    try:
        sent = play.fleet.submit(kind.__name__, {"question": mark})
        play.await_asked(mark)
        assert sent.cancel()
        with pytest.raises(PredictionCancelledError):
            sent.get(WAIT_S)
    finally:
        play.lm.delay(0)
    # It comes after the thread's second call would have.
    assert play.fleet.submit("ComesLast", {"question": fresh("q")}).get(WAIT_S)
    assert [request.inputs["question"] for request in play.requests_with(mark)] == [f"{mark} first"]


def test_a_call_in_a_thread_that_belongs_to_nobody_is_refused_by_name(play: Stage) -> None:
    mark = fresh("q")
    with pytest.raises(LMCallOutsidePredictionError, match="copy_context"):
        play.fleet.submit("InForeignThread", {"question": mark}).get(WAIT_S)
    assert play.requests_with(mark) == []


def test_a_thread_that_outlives_its_prediction_asks_no_more(play: Stage) -> None:
    mark = fresh("q")
    assert mark in play.fleet.submit("Lingering", {"question": mark}).get(WAIT_S).answer
    wait_until(lambda: "has ended" in play.worker.logs(), "the thread's next call to be refused")
    count = len(play.requests_with(mark))
    assert count < 20
