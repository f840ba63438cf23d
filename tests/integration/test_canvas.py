"""Celery's own composition over predictions: chains, groups and chords, with outputs taken as the next one's inputs."""

from __future__ import annotations

from collections.abc import Generator

import dspy
import pytest
from celery import Celery, chain, chord, group

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import BridgeError, InputError, ProgramNotFoundError
from snakepit_bridge.protocol.messages import Result
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S

WAIT_S = PATIENCE_S


@pytest.fixture(scope="module", params=["asyncio", "threads", "prefork"])
def play(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), pool=request.param) as play:
        play.fleet.register("ask", dspy.Predict("question -> answer"))
        play.fleet.register("warm", dspy.Predict("question -> answer"), bindings={"temperature": "temp"})
        play.fleet.register("shorten", dspy.Predict("text -> summary"))
        play.fleet.register("judge", dspy.Predict("answers: list[str] -> verdict"))
        yield play


def test_a_signature_alone_is_a_prediction(play: Stage) -> None:
    question = fresh("q")
    sent = play.fleet.signature("ask", {"question": question}).apply_async()
    assert play.fleet.handle(sent.id).get(WAIT_S).answer == f"answer of {question}"


def test_a_chain_takes_outputs_as_the_next_inputs(play: Stage) -> None:
    question = fresh("q")
    steps = chain(
        play.fleet.signature("ask", {"question": question}),
        play.fleet.signature("shorten", take={"text": "answer"}),
        play.fleet.signature("ask", take={"question": "summary"}),
    )
    last = steps.apply_async()
    prediction = play.fleet.handle(last.id).get(WAIT_S)
    assert prediction.answer == f"answer of summary of answer of {question}"
    assert prediction.provenance.task_id == last.id
    assert play.fleet.handle(last.parent.id).get(WAIT_S).summary == f"summary of answer of {question}"


def test_a_chain_without_take_hands_on_the_outputs_by_their_names(play: Stage) -> None:
    play.fleet.register("again", dspy.Predict("answer -> question"))
    question = fresh("q")
    steps = chain(play.fleet.signature("ask", {"question": question}), play.fleet.signature("again"))
    assert play.fleet.handle(steps.apply_async().id).get(WAIT_S).question == f"question of answer of {question}"


def test_each_step_runs_under_its_own_session_and_requirement(play: Stage) -> None:
    sessions, question = [fresh("s"), fresh("s")], fresh("q")
    tokens = [
        play.fleet.session(name).blocking.set_variables({"temp": temp})
        for name, temp in zip(sessions, (0.1, 0.9), strict=True)
    ]
    first = play.fleet.signature("warm", {"question": question}, session=sessions[0], exactly=tokens[0])
    second = play.fleet.signature("warm", session=sessions[1], at_least=tokens[1], take={"question": "answer"})
    provenance = play.fleet.handle(chain(first, second).apply_async().id).get(WAIT_S).provenance
    assert (provenance.session, provenance.token) == (sessions[1], str(tokens[1]))
    assert [sent.temperature for sent in play.requests_with(question)] == [0.1, 0.9]


def test_a_group_is_many_predictions(play: Stage) -> None:
    questions = [fresh("q") for _ in range(6)]
    results = group(play.fleet.signature("ask", {"question": question}) for question in questions).apply_async()
    answers = [play.fleet.handle(child.id).get(WAIT_S).answer for child in results.children]
    assert answers == [f"answer of {question}" for question in questions]
    stored = results.get(timeout=WAIT_S)
    assert [Result.decode(encoded).outputs["answer"] for encoded in stored] == answers


def test_a_chord_takes_a_list_of_its_headers_outputs(play: Stage) -> None:
    questions = [fresh("q") for _ in range(4)]
    header = [play.fleet.signature("ask", {"question": question}) for question in questions]
    body = play.fleet.signature("judge", take={"answers": "answer"})
    prediction = play.fleet.handle(chord(header)(body).id).get(WAIT_S)
    [sent] = [
        request
        for request in play.lm.requests
        if "verdict" in request.outputs and questions[0] in request.inputs["answers"]
    ]
    places = [sent.inputs["answers"].index(f"answer of {question}") for question in questions]
    assert places == sorted(places)
    assert prediction.verdict.startswith("verdict of ")


def test_an_output_that_is_not_there_names_those_that_are(play: Stage) -> None:
    steps = chain(
        play.fleet.signature("ask", {"question": "why?"}), play.fleet.signature("shorten", take={"text": "anwser"})
    )
    with pytest.raises(InputError, match=r"'shorten' can't take input 'text': .*no output 'anwser'.*answer"):
        play.fleet.handle(steps.apply_async().id).get(WAIT_S)


def test_an_output_that_the_next_program_has_no_input_for_is_refused(play: Stage) -> None:
    steps = chain(play.fleet.signature("ask", {"question": "why?"}), play.fleet.signature("shorten"))
    with pytest.raises(InputError, match=r"'shorten' can't take input 'answer': it has no such input.*text"):
        play.fleet.handle(steps.apply_async().id).get(WAIT_S)


def test_a_failed_step_ends_the_chain_under_its_own_name(play: Stage) -> None:
    steps = chain(play.fleet.signature("nowhere", {"question": "why?"}), play.fleet.signature("shorten"))
    last = steps.apply_async()
    with pytest.raises(ProgramNotFoundError, match="nowhere"):
        play.fleet.handle(last.parent.id).get(WAIT_S)
    with pytest.raises(BridgeError, match="nowhere"):
        play.fleet.handle(last.id).get(WAIT_S)


def test_a_failed_header_fails_the_chords_body(play: Stage) -> None:
    header = [play.fleet.signature("ask", {"question": "why?"}), play.fleet.signature("nowhere", {"question": "why?"})]
    body = play.fleet.signature("judge", take={"answers": "answer"})
    # By the named error of its part, and not by Celery's words for it.
    with pytest.raises(ProgramNotFoundError, match="nowhere"):
        play.fleet.handle(chord(header)(body).id).get(WAIT_S)


def test_signatures_of_a_given_app_are_sent_by_it(play: Stage) -> None:
    app = Celery("shop", broker=play.url, backend=play.url, set_as_current=False)
    fleet, question = Fleet(app=app), fresh("q")
    steps = chain(fleet.signature("ask", {"question": question}), fleet.signature("shorten", take={"text": "answer"}))
    assert steps.app is app
    assert fleet.handle(steps.apply_async().id).get(WAIT_S).summary == f"summary of answer of {question}"
