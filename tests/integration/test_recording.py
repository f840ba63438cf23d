"""Recording: finished predictions of real workers are kept once each, and what was scored low becomes a dataset."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import dspy
import pytest
from redis import Redis

from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.exceptions import LMRefusedError, RecorderError
from snakepit_bridge.redis.key_names import FleetKeys
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    # Few bytes travel with a message, so that a long question goes by reference.
    with stage(tmp_path_factory.mktemp("recording"), DSPEX_PAYLOAD_BYTES="2000") as playing:
        yield playing


@pytest.fixture
def program(play: Stage) -> str:
    """A program whose predictions are recorded, with an input that isn't, and one of which the name is."""
    name = fresh("qa")
    play.fleet.register(name, dspy.Predict("question, email, name -> answer"))
    play.fleet.recorders.set(name, drop=["inputs.email"], replace=["inputs.name"], max_records=50, expires_s=3_600)
    wait_until(lambda: is_recorded(play, name), "the recorder to be known")
    with Redis.from_url(play.url) as client:
        client.delete(FleetKeys().program_records(name))
    return name


def is_recorded(play: Stage, program: str) -> bool:
    ask(play, program).get()
    return count(play.fleet, program) > 0


def count(fleet: Fleet, program: str) -> int:
    [report] = [each for each in fleet.recorders.list() if each.recorder.program == program]
    return report.count.records


def inputs_of(question: str = "") -> dict[str, str]:
    return {"question": question or fresh("q"), "email": "ann@example.org", "name": "Ann"}


def ask(play: Stage, program: str, question: str = "", **options: Any) -> Handle:
    return play.fleet.submit(program, inputs_of(question), **options)


def test_what_was_scored_low_becomes_a_dataset(play: Stage, program: str) -> None:
    fleet, session = play.fleet, fresh("s")
    fleet.session(session).blocking.set_variables({"warmth": 0.5})
    handles = [ask(play, program, f"good {number}") for number in range(3)]
    handles += fleet.submit_batch(program, [inputs_of(f"bad {number}") for number in range(3)], session=session)
    handles.append(ask(play, program, "bad " + "x" * 4_000, session=session))  # too large for a message
    for number, handle in enumerate(handles):
        assert handle.get()
        handle.score("helpful", 0.9 if number < 3 else 0.25)
    # A dataset doesn't depend on results, which expire sooner.
    with Redis.from_url(play.url) as client:
        client.delete(*(f"celery-task-meta-{handle.id}" for handle in handles))

    low = fleet.datasets.from_predictions(program, fresh("low"), scores=["helpful<0.5"], since_s=600)
    assert low.inputs == ("question", "name")
    rows = {row["question"][:5]: row for row in low.rows}
    assert rows.keys() == {"bad 0", "bad 1", "bad 2", "bad x"}
    assert rows["bad 1"] == {
        "question": "bad 1",
        "name": "(removed)",
        "answer": "answer of bad 1",
        "score_helpful": 0.25,
    }
    assert len(rows["bad x"]["question"]) == 4_004
    assert low.examples[0].inputs().keys() == ["question", "name"]
    variant = fleet.store_variant(program, dspy.Predict("question -> answer"))
    assert fleet.submit(variant, {"question": "of a variant"}, session=session).get().provenance.version == 0
    measured = [dspy.Example(inputs_of("measured")).with_inputs("question", "email", "name")]
    assert not fleet.evaluate(program, measured, lambda example, prediction: 1.0, session=session).errors
    of_session = fleet.datasets.from_predictions(program, fresh("of"), session=session)
    assert len(of_session) == 4
    assert len(fleet.datasets.from_predictions(program, fresh("of"), session="default", limit=2)) == 2


def test_failed_predictions_are_recorded_with_their_error(play: Stage, program: str) -> None:
    fleet = play.fleet
    play.lm.fail(None, status=400, containing="broken")
    handles = [ask(play, program, "broken alone"), *fleet.submit_batch(program, [inputs_of("broken in a batch")])]
    for handle in handles:
        with pytest.raises(LMRefusedError):
            handle.get()
    wait_until(lambda: count(fleet, program) == 2, "both to be recorded")
    failed = fleet.datasets.from_predictions(program, fresh("failed"), error="any", version=1)
    assert sorted(failed.rows, key=lambda row: row["question"]) == [
        {"question": question, "name": "(removed)", "error": "LMRefusedError"}
        for question in ("broken alone", "broken in a batch")
    ]
    fleet.recorders.set(program, errors=False)

    def is_left_out() -> bool:
        before = count(fleet, program)
        with pytest.raises(LMRefusedError):
            ask(play, program, "broken again").get()
        return count(fleet, program) == before

    wait_until(is_left_out, "the recorder to leave out errors")


def test_recording_ends_with_its_recorder_and_what_is_recorded_stays_until_it_is_erased(
    play: Stage, program: str
) -> None:
    fleet = play.fleet
    ask(play, program).get()
    fleet.recorders.remove(program)
    with pytest.raises(RecorderError, match="there is none"):
        fleet.recorders.remove(program)

    def recorded() -> int:
        return len(fleet.datasets.from_predictions(program, fresh("all")))

    def has_ended() -> bool:
        before = recorded()
        ask(play, program).get()
        return recorded() == before

    wait_until(has_ended, "the worker to know")
    fleet.recorders.remove(program, erase=True)
    with Redis.from_url(play.url) as client:
        assert not client.exists(FleetKeys().program_records(program))


def test_a_prediction_is_recorded_once_if_its_worker_is_killed(tmp_path: Path) -> None:
    """The worker dies while the LM thinks; the one that takes its place answers, and records."""
    with stage(tmp_path, DSPEX_LEASE_S="1") as play:
        name = fresh("qa")
        play.fleet.register(name, dspy.Predict("question, email, name -> answer"))
        play.fleet.recorders.set(name)
        wait_until(lambda: is_recorded(play, name), "the recorder to be known")
        before = count(play.fleet, name)
        questions = [fresh("q") for _ in range(4)]
        play.lm.hang(4, containing="q-")
        handles = [ask(play, name, question) for question in questions]
        for question in questions:
            play.await_asked(question)
        os.kill(play.workers[0].container.pid, signal.SIGKILL)
        play.start()
        for handle in handles:
            assert handle.get(PATIENCE_S)
        assert count(play.fleet, name) == before + len(handles)
