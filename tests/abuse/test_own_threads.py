"""KINDS 9, 10, 11: code that blocks holds up nobody, and an LM call in a program's own thread is its prediction's."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from snakepit_bridge.exceptions import LMCallOutsidePredictionError, PredictionCancelled
from tests.harness import threaded
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import wait_until

WAIT_S = 60


OTHERS = (
    threaded.InForeignThread, threaded.Lingering, threaded.Blocking, threaded.Rewarded, threaded.Agent,
)  # fmt: skip


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), worker=False, DSPEX_ALLOWED_PACKAGES="tests") as play:
        play.start(pool="asyncio", concurrency=1_000)
        for kind in (*threaded.WAYS, *OTHERS):
            play.fleet.register(kind.__name__, kind())
        yield play


def test_hundreds_of_programs_that_block_on_a_cold_worker_hold_up_nothing(play: Stage) -> None:
    """KINDS 9."""
    mark = fresh("q")
    sent = [play.fleet.submit("InThreads", {"question": f"{mark} {number}"}, deadline=30) for number in range(400)]
    for one in sent:
        assert mark in one.get(WAIT_S).answer


@pytest.mark.parametrize("kind", threaded.WAYS)
def test_a_call_in_a_thread_of_the_programs_own_is_its_predictions(play: Stage, kind: type[Any]) -> None:
    """KINDS 11."""
    marks = [fresh("q") for _ in range(3)]
    sent = [play.fleet.submit(kind.__name__, {"question": mark}) for mark in marks]
    for mark, one in zip(marks, sent, strict=True):
        prediction = one.get(WAIT_S)
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
        with pytest.raises(PredictionCancelled):
            sent.get(WAIT_S)
    finally:
        play.lm.delay(0)
    # Whatever comes next on the same worker comes after the thread's second call would have.
    assert play.fleet.submit("Blocking", {"question": fresh("q")}).get(WAIT_S)
    assert [one.inputs["question"] for one in play.asked(mark)] == [f"{mark} first"]


def test_a_call_in_a_thread_that_belongs_to_nobody_is_refused_by_name(play: Stage) -> None:
    mark = fresh("q")
    with pytest.raises(LMCallOutsidePredictionError, match="copy_context"):
        play.fleet.submit("InForeignThread", {"question": mark}).get(WAIT_S)
    assert play.asked(mark) == []


def test_a_thread_that_outlives_its_prediction_asks_no_more(play: Stage) -> None:
    mark = fresh("q")
    assert mark in play.fleet.submit("Lingering", {"question": mark}).get(WAIT_S).answer
    wait_until(lambda: "has ended" in play.worker.logs(), "the thread's next call to be refused")
    count = len(play.asked(mark))
    assert count < 20


def loop_of(play: Stage) -> dict[str, float]:
    """How late the worker's loop was in the last minute."""
    node = play.worker.container.node
    told: dict[str, Any] = play.fleet.app.control.inspect([node], timeout=5).stats()[node]
    return told["pool"]["loop"]


def test_code_that_blocks_leaves_the_loop_free(play: Stage) -> None:
    """KINDS 10: tools, reward functions and modules that block run in threads."""
    blocking = ("Agent", "Rewarded", "Blocking")
    sent = [play.fleet.submit(name, {"question": fresh("q")}) for name in blocking for _ in range(5)]
    honest = [play.fleet.submit("ToThread", {"question": fresh("q")}) for _ in range(20)]
    for one in (*sent, *honest):
        assert one.get(WAIT_S).answer is not None
    assert any("found" in str(one.inputs) for one in play.lm.requests), "no tool was called"
    # One of the 15 on the loop would have held it up for 1.5 s.
    found = loop_of(play)
    assert found["worst_ms"] < 1_000, found
