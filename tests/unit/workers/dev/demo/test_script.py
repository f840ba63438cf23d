"""The script: its questions can be told apart and judged, and its revisions fit the programs that they steer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.programs.spec import ProgramSpec
from snakepit_bridge.variables import Variable
from workers.dev.demo.script import DECLARED, PROGRAMS, PUBLISHES, Question, read_questions
from workers.dev.stand_in_lm import QUESTIONS


def line(text: str, *, id: str = "1", expected: object = None) -> str:
    return json.dumps({"id": id, "program": "math", "inputs": {"question": text}, "expected": expected or {}})


def written(folder: Path, *lines: str) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_line_is_a_question_and_an_empty_one_is_none(tmp_path: Path) -> None:
    first, second = read_questions(written(tmp_path, line("why?", expected={"answer": 4}), "", line("ünd?", id="2")))
    assert first == Question("1", "math", {"question": "why?"}, {"answer": 4})
    assert (second.id, second.text) == ("2", "ünd?")


@pytest.mark.parametrize("wrong", ["{", '{"id": "1"}', '{"id": 1, "other": 2}', "7", "[]"])
def test_a_line_that_is_no_question_is_told_with_the_file(wrong: str, tmp_path: Path) -> None:
    path = written(tmp_path, line("why?"), wrong)
    with pytest.raises(ConfigurationError, match=r"The questions in .*questions\.jsonl can't be read: "):
        read_questions(path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        read_questions(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("again", ["why is it?", "why  is\nit? "])
def test_two_questions_that_the_log_could_not_tell_apart_are_refused(again: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="same text"):
        read_questions(written(tmp_path, line("why is it?"), line(again, id="2")))


@pytest.mark.parametrize(
    ("expected", "outputs", "right"),
    [
        ({"answer": 4}, {"answer": 4.0}, True),
        ({"answer": 4}, {"answer": 4.0000001}, True),
        ({"answer": 4}, {"answer": 4.1}, False),
        ({"answer": 1e9}, {"answer": 1e9 + 1}, True),
        ({"answer": 4}, {"answer": None}, False),
        ({"answer": 4}, {}, False),
        ({"label": "Positive"}, {"label": " positive "}, True),
        ({"label": "positive"}, {"label": "negative"}, False),
        ({"a": "x", "b": "y"}, {"a": "x", "b": "z"}, False),
        ({"a": "x"}, {"a": "x", "b": "more"}, True),
        ({}, {}, True),
    ],
)
def test_an_answer_is_right_if_all_that_is_known_is_there(
    expected: dict[str, Any], outputs: dict[str, Any], right: bool
) -> None:
    assert Question("1", "math", {"question": "why?"}, expected).is_correct(outputs) is right


def test_the_questions_that_come_along_are_of_the_demos_programs() -> None:
    questions = read_questions(QUESTIONS)
    assert len(questions) >= 100
    assert {question.program for question in questions} == set(PROGRAMS)
    assert len({question.id for question in questions}) == len(questions)


def test_each_published_value_is_one_that_its_variable_allows() -> None:
    declared = {name: Variable.declare(name, value, kind, rules) for name, kind, value, rules in DECLARED}
    for changes in PUBLISHES:
        assert changes.keys() <= declared.keys()
        for name, value in changes.items():
            declared[name] = declared[name].with_value(value)


def test_each_publish_changes_something() -> None:
    values: dict[str, Any] = {name: value for name, _, value, _ in DECLARED}
    for changes in PUBLISHES:
        assert all(values[name] != value for name, value in changes.items())
        values |= changes
    # One that changes several variables at once is what tearing shows on.
    assert any(len(changes) > 1 for changes in PUBLISHES)


def test_each_program_is_steered_by_the_declared_variables_alone() -> None:
    names = {name for name, *_ in DECLARED}
    for name, spec in PROGRAMS.items():
        parsed = ProgramSpec.parse(spec, program=name)
        assert set(parsed.bindings.values()) <= names
        assert len(parsed.bindings) >= 2
        chosen = spec["module"]["variable"] if isinstance(spec["module"], dict) else None
        assert chosen in {None, *names}
