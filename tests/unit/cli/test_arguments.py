"""How a shell's words become typed values."""

from __future__ import annotations

import math

import pytest

from snakepit_bridge.cli.arguments import Assignment, parse_assignments, parse_json_or_text, parse_pairs, parse_value
from snakepit_bridge.exceptions import BridgeError, ValidationError
from snakepit_bridge.variables import Constraints, Variable, VariableType


def test_words_split_at_their_first_equals_sign() -> None:
    assert parse_pairs(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}


@pytest.mark.parametrize(("words", "says"), [(["bad"], "got 'bad'"), (["=1"], "got '=1'"), (["a=1", "a=2"], "twice")])
def test_a_word_that_is_no_assignment_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(BridgeError, match=says):
        parse_pairs(words)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.4", 0.4), ("7", 7), ("true", True), ("[1, 2]", [1, 2]), ("terse", "terse"), ('"42"', "42"), ("{", "{")],
)
def test_what_is_json_is_read_as_json_and_the_rest_is_text(text: str, value: object) -> None:
    assert parse_json_or_text(text) == value


def test_deep_nesting_is_text_and_no_crash() -> None:
    assert parse_json_or_text("[" * 100_000) == "[" * 100_000


def test_a_text_variable_keeps_what_looks_like_a_number() -> None:
    assert parse_value("42", VariableType.STRING) == "42"
    assert parse_value('"42"', VariableType.STRING) == "42"
    assert parse_value("42", VariableType.INTEGER) == 42


def test_a_new_variable_takes_its_type_from_its_value_or_from_the_name() -> None:
    temperature, style, code = parse_assignments(
        ["temperature=0.4", "style:string=7", "code=7"], ["code=string"], known=()
    )
    assert temperature.apply_to(None).type == VariableType.FLOAT
    assert style.apply_to(None) == Variable.declare("style", "7", VariableType.STRING)
    assert code.apply_to(None).value == "7"


def test_a_name_that_holds_a_colon_is_found_where_it_is_known() -> None:
    (found,) = parse_assignments(["llm:temperature=1"], [], known={"llm:temperature"})
    assert (found.name, found.type) == ("llm:temperature", None)


def test_a_variable_that_exists_keeps_its_type_and_constraints() -> None:
    existing = Variable.declare("t", 0.5, VariableType.FLOAT, Constraints(max=1))
    assert Assignment("t", "1").apply_to(existing).type == VariableType.FLOAT
    with pytest.raises(ValidationError, match=r"can't be 2\.0"):
        Assignment("t", "2").apply_to(existing)
    with pytest.raises(ValidationError, match="keeps that type"):
        Assignment("t", "1", VariableType.STRING).apply_to(existing)


def test_a_float_can_be_infinite() -> None:
    existing = Variable.declare("t", 0.5, VariableType.FLOAT)
    assert Assignment("t", '"Infinity"').apply_to(existing).value == math.inf


@pytest.mark.parametrize(
    ("words", "types", "says"),
    [
        (["a:colour=1"], [], "colour"),
        (["a=1"], ["b=float"], "isn't published here"),
        (["a=1", "a:float=2"], [], "given twice"),
    ],
)
def test_what_contradicts_itself_is_refused(words: list[str], types: list[str], says: str) -> None:
    with pytest.raises(BridgeError, match=says):
        parse_assignments(words, types, known=())
