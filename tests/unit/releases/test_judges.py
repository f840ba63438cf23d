"""What a judge may be, which predictions are in its sample, and what it is asked about them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from snakepit_bridge.exceptions import JudgeError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.releases.judges import Judge, read_judges
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable
from tasks.judging import Judgement

JUDGE = Judge("shop.qa", "helpful", "judge@prod", {"question": "inputs.question", "answer": "outputs.answer"})


def session(**values: Any) -> Snapshot:
    variables = {name: Variable.declare(name, value) for name, value in values.items()}
    return Snapshot("dspex.judges", Token(1, 1), variables, 0.0)


def test_a_judge_is_a_variable() -> None:
    assert JUDGE.variable == "dspex.judge.shop.qa.helpful"
    assert Judge.decode(JUDGE.variable, JUDGE.encode()) == JUDGE
    assert json.loads(JUDGE.encode()) == {
        "program": "judge@prod",
        "inputs": {"question": "inputs.question", "answer": "outputs.answer"},
        "output": "score",
        "comment": "",
        "share": 0.1,
        "usd_per_hour": 1.0,
        "concurrency": 8,
    }


def test_what_a_judges_variable_leaves_out_has_its_default() -> None:
    text = '{"program": "judge@prod", "inputs": {"question": "inputs.question", "answer": "outputs.answer"}}'
    assert Judge.decode(JUDGE.variable, text) == JUDGE


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (1.5, "JSON object"),
        ("nonsense", "isn't JSON"),
        ("[]", "JSON object"),
        ("{}", "names no program"),
        ('{"program": 1}', "program can't be 1"),
        ('{"program": "j", "share": true}', "share can't be True"),
        ('{"program": "j", "inputs": {"a": 1}}', "inputs map each field"),
        ('{"program": "j", "inputs": {"a": "outputs.b.c"}}', "inputs map each field"),
        ('{"program": "j", "inputs": {"a": "outputs.b"}, "share": 1e-9}', "A share is a number from 0 to 1"),
        ('{"program": "j", "inputs": {"a": "outputs.b"}, "shares": 1}', "it has shares; a judge has program"),
    ],
)
def test_another_value_is_refused_by_name_and_hides_no_other_judge(value: Any, problem: str) -> None:
    name = "dspex.judge.qa.broken"
    judges, [error] = read_judges(session(**{JUDGE.variable: JUDGE.encode(), name: value, "strictness": 0.5}))
    assert judges == [JUDGE]
    assert (error.judge, problem in str(error)) == ("qa.broken", True), str(error)


def test_a_variable_without_a_program_is_no_judge() -> None:
    judges, [error] = read_judges(session(**{"dspex.judge.helpful": JUDGE.encode()}))
    assert (judges, error.judge) == ([], "dspex.judge.helpful")


def test_a_sample_is_its_share_of_the_predictions_and_grows_with_it() -> None:
    tasks = [f"task-{number}" for number in range(20_000)]
    samples = {
        share: {task for task in tasks if Judge("qa", "helpful", "judge", share=share).covers(task)}
        for share in (0.1, 0.5, 1.0)
    }
    assert len(samples[0.1]) == pytest.approx(2_000, abs=200)
    assert samples[0.1] < samples[0.5] < samples[1.0] == set(tasks)
    other = {task for task in tasks if Judge("qa", "polite", "judge").covers(task)}
    assert len(other & samples[0.1]) == pytest.approx(200, abs=80)


def test_a_judge_is_asked_about_fields_of_the_prediction() -> None:
    inputs, outputs = {"question": "why?", "tone": "curt"}, {"answer": [1, None]}
    assert JUDGE.select(inputs, outputs) == {"question": "why?", "answer": [1, None]}
    with pytest.raises(JudgeError, match=r"has no outputs\.answer; it has \['reply'\]"):
        JUDGE.select(inputs, {"reply": "because"})


def test_a_judgement_travels_in_a_header() -> None:
    judgement = Judgement("task", "shop.qa", "helpful", "score", "reason")
    assert Judgement.find({**judgement.header(), "other": 1}) == judgement
    assert Judgement.find({}) is None
    assert Judgement.find({"judgement": "text"}) is None
