"""Constraints: well-formed or refused, kept whole, and enforced on every type that they apply to."""

from __future__ import annotations

import math
from typing import Any

import pytest

from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.variables import Constraints, Variable, VariableType

T = VariableType
SHAPED = {"data": [1, 2], "shape": [2]}

OBEYED: list[tuple[VariableType, Any, dict[str, Any]]] = [
    (T.FLOAT, 0.0, {"min": 0, "max": 1}),
    (T.FLOAT, 1.0, {"min": 0, "max": 1}),
    (T.FLOAT, math.nan, {}),
    (T.FLOAT, math.inf, {"min": 0}),
    (T.FLOAT, 0.5, {"choices": [0, 0.5, 1]}),
    (T.INTEGER, 10**30, {"max": 10**30}),
    (T.INTEGER, 2, {"enum": [1, 2]}),
    (T.STRING, "abc", {"min_length": 3, "max_length": 3}),
    (T.STRING, "xyz-1", {"pattern": r"\d"}),
    (T.CHOICE, "b", {"choices": ["a", "b"]}),
    (T.CHOICE, "b", {"choices": ["a", "b"], "enum": ["b"]}),
    (T.CHOICE, "anything", {}),
    (T.MODULE, "Predict", {"allowed_modules": ["Predict", "ReAct"]}),
    (T.EMBEDDING, [1.0, 2.0], {"dimensions": 2}),
    (T.TENSOR, SHAPED, {"shape": [2]}),
    (T.BOOLEAN, True, {"min": 5}),
]

BROKEN: list[tuple[VariableType, Any, dict[str, Any], str]] = [
    (T.FLOAT, -0.1, {"min": 0}, "at least 0"),
    (T.FLOAT, 1.1, {"max": 1}, "at most 1"),
    (T.FLOAT, math.inf, {"max": 1}, "at most 1"),
    (T.FLOAT, math.nan, {"min": 0}, "must be a number between 0 and None"),
    (T.FLOAT, math.nan, {"max": 1}, "must be a number between None and 1"),
    (T.FLOAT, 0.7, {"choices": [0, 0.5, 1]}, "one of 0, 0.5, 1"),
    (T.INTEGER, 10**30 + 1, {"max": 10**30}, "at most"),
    (T.INTEGER, 3, {"enum": [1, 2]}, "one of 1, 2"),
    (T.STRING, "ab", {"min_length": 3}, "at least 3 characters"),
    (T.STRING, "abcd", {"max_length": 3}, "at most 3 characters"),
    (T.STRING, "xyz", {"pattern": r"^\d+$"}, "match the pattern"),
    (T.CHOICE, "c", {"choices": ["a", "b"]}, "one of a, b"),
    (T.CHOICE, "a", {"choices": ["a", "b"], "enum": ["b"]}, "one of b"),
    (T.CHOICE, "a", {"choices": []}, "one of none"),
    (T.MODULE, "Refine", {"allowed_modules": ["Predict", "ReAct"]}, "modules Predict, ReAct"),
    (T.EMBEDDING, [1.0], {"dimensions": 2}, "must have 2"),
    (T.TENSOR, SHAPED, {"shape": [1, 2]}, r"shape must be \[1, 2\]"),
]

MALFORMED: list[tuple[Any, str]] = [
    ({"min": "0"}, "min must be a finite number"),
    ({"min": True}, "min must be a finite number"),
    ({"max": math.nan}, "max must be a finite number"),
    ({"max": math.inf}, "max must be a finite number"),
    ({"min": 2, "max": 1}, "min must not be above max"),
    ({"min_length": -1}, "min_length must be a count"),
    ({"max_length": 1.5}, "max_length must be a count"),
    ({"min_length": 3, "max_length": 2}, "min_length must not be above max_length"),
    ({"pattern": 5}, "pattern must be a regular expression"),
    ({"pattern": "("}, "pattern must be a regular expression"),
    ({"choices": "ab"}, "choices must be a list"),
    ({"enum": {"a": 1}}, "enum must be a list"),
    ({"choices": [["a"]]}, "choices must be a list of texts or numbers"),
    ({"allowed_modules": "Predict"}, "allowed_modules must be a list"),
    ({"allowed_modules": [1]}, "allowed_modules must be a list"),
    ({"dimensions": "2"}, "dimensions must be a count"),
    ({"shape": 2}, "shape must be a list of sizes"),
    ({"shape": [-1]}, "shape must be a list of sizes"),
    ({"note": {1, 2}}, "constraints must be JSON"),
    ({"note": math.nan}, "constraints must be JSON"),
    ({1: 2}, "constraints are a mapping"),
    (["min"], "constraints are a mapping"),
    ([], "constraints are a mapping"),
    ("min=1", "constraints are a mapping"),
]


@pytest.mark.parametrize(("kind", "value", "constraints"), OBEYED)
def test_a_valid_value_is_accepted(kind: VariableType, value: Any, constraints: dict[str, Any]) -> None:
    assert Variable.declare("v", value, kind, constraints).type is kind


@pytest.mark.parametrize(("kind", "value", "constraints", "rule"), BROKEN)
def test_a_violation_is_rejected_with_the_rule(
    kind: VariableType, value: Any, constraints: dict[str, Any], rule: str
) -> None:
    with pytest.raises(ValidationError, match=rule):
        Variable.declare("v", value, kind, constraints)


@pytest.mark.parametrize(("given", "problem"), MALFORMED)
def test_a_malformed_constraint_is_rejected(given: Any, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem) as raised:
        Constraints.of(given, "the variable")
    assert raised.value.variable == "the variable"


@pytest.mark.parametrize("given", [None, {}, Constraints(), {"min": None, "pattern": None}])
def test_none_and_empty_mean_unconstrained(given: Any) -> None:
    assert Constraints.of(given) == Constraints()
    assert Constraints.of(given).as_dict() == {}


def test_all_constraints_survive_the_round_trip() -> None:
    given = {
        "min": 0, "max": 1.5, "min_length": 1, "max_length": 9, "pattern": "a|b", "choices": ["a", 1, 0.5],
        "allowed_modules": ["Predict"], "dimensions": 3, "shape": [2, 2],
    }  # fmt: skip
    assert Constraints.of(given).as_dict() == given


def test_unknown_keys_survive_without_effect() -> None:
    variable = Variable.declare("v", 5, constraints={"step": 2, "ui": {"b": [1, None], "a": "ü"}})
    again = Variable.decode("v", variable.encode())
    assert again.constraints.as_dict() == {"step": 2, "ui": {"b": [1, None], "a": "ü"}}
    assert again.with_value(4).constraints == variable.constraints


def test_enum_is_an_alias_of_choices() -> None:
    assert Constraints.of({"enum": ["a"]}) == Constraints.of({"choices": ["a"]})
