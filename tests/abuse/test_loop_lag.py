"""Beside users' code that blocks, the event loop turns, and the model changes without waiting."""

from __future__ import annotations

from collections.abc import Generator

import dspy
import pytest

from tests.harness import lag, threaded
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S

WAIT_S = PATIENCE_S
BLOCKING = ("Agent", "Rewarded", "Blocking")


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), worker=False, DSPEX_ALLOWED_PACKAGES="tests") as play:
        play.start(pool="asyncio", concurrency=1_000)
        for kind in (*lag.MEASURING, threaded.Agent, threaded.Rewarded, threaded.Blocking, threaded.ToThread):
            play.fleet.register(kind.__name__, kind())
        yield play


def p99_beside(play: Stage, names: list[str]) -> tuple[float, float]:
    """Return how late the worker's loop was beside these programs, and how late an idle thread of its process was.

    The second is what the machine and the interpreter lock cost anybody at that time.
    """
    mark = fresh("q")
    measured = play.fleet.submit("Measures", {"question": mark})
    play.await_asked(mark)
    sent = [play.fleet.submit(name, {"question": fresh("q")}) for name in names]
    for handle in sent:
        assert handle.get(WAIT_S).answer is not None
    play.fleet.submit("Stops", {"question": "now"}).get(WAIT_S)
    of_loop, of_thread, count = map(float, measured.get(WAIT_S).answer.split())
    assert count > 100
    return of_loop, of_thread


def allowed_ms(of_thread: float) -> float:
    """Return how late the loop may be where an idle thread is so late."""
    return 50 + 2 * of_thread


def test_the_loop_is_in_time_beside_code_that_blocks(play: Stage) -> None:
    """Tools, reward functions and modules that block run in threads."""
    p99_beside(play, [*BLOCKING, "ToThread"])  # built by then
    rounds = [p99_beside(play, [*BLOCKING * 5, *["ToThread"] * 20]) for _ in range(3)]
    assert any("found" in str(request.inputs) for request in play.lm.requests), "no tool was called"
    # Whatever runs beside it on the machine makes a round worse, and code that holds the loop up makes each one worse.
    assert any(of_loop <= allowed_ms(of_thread) for of_loop, of_thread in rounds), rounds


def test_the_measure_tells_a_loop_that_is_held_up(play: Stage) -> None:
    of_loop, of_thread = p99_beside(play, ["BlocksLoop", "ToThread"])
    assert of_loop > max(500, allowed_ms(of_thread)), (of_loop, of_thread)


def test_the_model_changes_while_hundreds_of_programs_block(play: Stage) -> None:
    """The first request to the new model goes out before any of them is let go."""
    session, mark = fresh("s"), fresh("q")
    variables = play.fleet.session(session).blocking
    variables.set_variables({"llm": "openai/demo"})
    play.fleet.register("steered", dspy.ChainOfThought("question -> answer"), bindings={"model": "llm"})
    held = [play.fleet.submit("Held", {"question": f"{mark} {number}"}) for number in range(300)]
    play.await_asked(f"{mark} ", 300)
    first = play.fleet.submit("steered", {"question": fresh("q")}, session=session).get(WAIT_S)
    token = variables.set_variables({"llm": "openai/other"})
    changed = play.fleet.submit("steered", {"question": mark}, session=session, at_least=token).get(WAIT_S)
    assert [prediction.provenance.model for prediction in (first, changed)] == ["openai/demo", "openai/other"]
    assert not any(handle.ready() for handle in held)
    play.fleet.submit("LetsGo", {"question": "now"}).get(WAIT_S)
    for handle in held:
        assert mark in handle.get(WAIT_S).answer
