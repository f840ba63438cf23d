"""Variables: declared, changed, compared and stored."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest

from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.variables import Constraints, Tensor, Variable, VariableType

WHOLE_FLOATS = [math.nan, math.inf, -math.inf, 10.0**30]


def round_trip(variable: Variable) -> Variable:
    return Variable.decode(variable.name, variable.encode())


def test_the_stored_form_is_stable() -> None:
    variable = Variable.declare("temperature", 1, "float", {"max": 2, "min": 0})
    assert variable.encode() == b'{"constraints":{"max":2,"min":0},"type":"float","value":1.0}'


@pytest.mark.parametrize("value", [*WHOLE_FLOATS, 10**30, "ünï 🎈", True, tuple(i / 7 for i in range(3000))])
def test_unusual_values_survive_the_round_trip(value: Any) -> None:
    variable = Variable.declare("v", value)
    assert round_trip(variable) == variable
    assert repr(round_trip(variable).value) == repr(variable.value)


@pytest.mark.parametrize("data", [[[1, 2.5], ["NaN", 4]], [1, 2.5, math.nan, 4]])
def test_tensors_keep_their_nesting(data: list[Any]) -> None:
    variable = Variable.declare("t", {"data": data, "shape": [2, 2]})
    assert isinstance(variable.value, Tensor)
    assert repr(round_trip(variable).value) == repr(variable.value)
    assert len(variable.value.data) == len(data)


@pytest.mark.parametrize("name", [" a", "with space", "ünï🎈", "a" * 300, "}{:", "\0"])
def test_any_text_is_a_name(name: str) -> None:
    assert round_trip(Variable.declare(name, 1)).name == name


@pytest.mark.parametrize("name", ["", " ", "\n", "a" * 513, "\ud800", 5, None])
def test_a_name_that_cannot_be_is_refused_where_a_variable_is_declared(name: Any) -> None:
    with pytest.raises(ValidationError, match=r"A variable's name is text of 1 to 512 .*; got .*\. Give it one\."):
        Variable.declare(name, 1)


@pytest.mark.parametrize("name", ["", " ", "a" * 600])
def test_what_an_earlier_release_stored_under_any_name_is_read(name: str) -> None:
    stored = Variable(name, VariableType.INTEGER, 1)
    assert round_trip(stored).with_value(2).name == name


@pytest.mark.parametrize("name", ["\ud800", 5, None])
def test_a_name_that_is_not_valid_utf8_is_rejected(name: Any) -> None:
    with pytest.raises(ValidationError, match="its name must be text"):
        Variable(name, VariableType.INTEGER, 1)


def test_a_new_value_keeps_type_and_constraints() -> None:
    variable = Variable.declare("t", 0.5, constraints={"max": 1})
    changed = variable.with_value(1)
    assert (changed.value, changed.type, changed.constraints) == (1.0, VariableType.FLOAT, variable.constraints)
    assert variable.value == 0.5
    with pytest.raises(ValidationError, match="Variable 't' can't be 1.5: it must be at most 1. Publish a value"):
        variable.with_value(1.5)
    with pytest.raises(ValidationError, match="a float is a number, not a str"):
        variable.with_value("warm")


def test_a_variable_is_immutable() -> None:
    variable = Variable.declare("e", [1.0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        variable.value = (2.0,)  # type: ignore[misc]
    assert isinstance(variable.value, tuple)


def test_mutable_arguments_are_copied() -> None:
    given = [1.0, 2.0]
    variable = Variable.declare("e", given)
    given.append(3.0)
    assert variable.value == (1.0, 2.0)


def test_equality_is_of_name_type_value_and_constraints() -> None:
    reference = Variable.declare("a", 1)
    assert reference == Variable.declare("a", 1)
    assert hash(reference) == hash(Variable.declare("a", 1))
    assert Variable.declare("a", math.nan) == Variable.declare("a", math.nan)
    assert reference != Variable.declare("b", 1)
    assert reference != Variable.declare("a", 1.0)
    assert reference != Variable.declare("a", 2)
    assert reference != Variable.declare("a", 1, constraints={"min": 0})
    assert reference != 1


def test_a_copy_is_an_equal_variable() -> None:
    variable = Variable.declare("t", {"data": [1], "shape": [1]}, constraints={"shape": [1]})
    assert copy.deepcopy(variable) == variable


def test_stored_values_that_violate_constraints_are_readable() -> None:
    stored = Variable("t", VariableType.FLOAT, math.nan, Constraints.of({"min": 0, "max": 1}))
    assert math.isnan(round_trip(stored).value)
    with pytest.raises(ValidationError, match="NaN"):
        stored.with_value(math.nan)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"5", b"null", b"\xff", b'{"type":"float","value":1}', b'{"value":1,"constraints":{}}',
        b'{"type":"double","value":1,"constraints":{}}', b'{"type":"float","value":"warm","constraints":{}}',
        b'{"type":"float","value":NaN,"constraints":{}}', b'{"type":"float","value":1,"constraints":[]}',
        b'{"type":"float","value":1,"constraints":{"min":"a"}}',
    ],
)  # fmt: skip
def test_bytes_that_are_not_a_variable_are_rejected(data: bytes) -> None:
    with pytest.raises(ValidationError) as raised:
        Variable.decode("broken", data)
    assert raised.value.variable == "broken"
