"""Types: what each takes, what it makes of it, and which type a bare value has."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest

from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.variables import Tensor, Variable, VariableType
from snakepit_bridge.variables.types import coerce, infer_type

T = VariableType


class Array:
    """What arrays of numpy and torch have in common."""

    def __init__(self, *rows: Any, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._rows = list(rows)

    def tolist(self) -> list[Any]:
        return self._rows


TAKEN: list[tuple[VariableType, Any, Any]] = [
    (T.FLOAT, 0.5, 0.5),
    (T.FLOAT, 1, 1.0),
    (T.FLOAT, 10**30, 1e30),
    (T.FLOAT, "NaN", math.nan),
    (T.FLOAT, "Infinity", math.inf),
    (T.FLOAT, "-Infinity", -math.inf),
    (T.FLOAT, math.inf, math.inf),
    (T.FLOAT, Fraction(1, 2), 0.5),
    (T.INTEGER, 3, 3),
    (T.INTEGER, 3.0, 3),
    (T.INTEGER, -(10**30), -(10**30)),
    (T.INTEGER, Fraction(7), 7),
    (T.STRING, "", ""),
    (T.STRING, "naïve 🎈", "naïve 🎈"),
    (T.BOOLEAN, True, True),
    (T.BOOLEAN, False, False),
    (T.CHOICE, "a", "a"),
    (T.MODULE, "ChainOfThought", "ChainOfThought"),
    (T.EMBEDDING, [1, 2.5, "NaN"], (1.0, 2.5, math.nan)),
    (T.EMBEDDING, (), ()),
    (T.EMBEDDING, Array(1.0, 2.0, shape=(2,)), (1.0, 2.0)),
    (T.TENSOR, {"data": [[1, 2], [3, 4.5]], "shape": [2, 2]}, Tensor(((1, 2), (3, 4.5)), (2, 2))),
    (T.TENSOR, {"data": [1, 2, 3, 4], "shape": (2, 2)}, Tensor((1, 2, 3, 4), (2, 2))),
    (T.TENSOR, {"data": [], "shape": [0]}, Tensor((), (0,))),
    (T.TENSOR, Tensor((1.0,), (1,)), Tensor((1.0,), (1,))),
    (T.TENSOR, Array([1.0, 2.0], shape=(1, 2)), Tensor(((1.0, 2.0),), (1, 2))),
]

REFUSED: list[tuple[VariableType, Any]] = [
    *[(T.FLOAT, value) for value in (True, "0.5", "nan", None, [1.0], 10**400, 1j)],
    *[(T.INTEGER, value) for value in (True, 2.5, "3", None, math.nan, math.inf, 2.0**53)],
    *[(kind, value) for kind in (T.STRING, T.CHOICE, T.MODULE) for value in (1, None, b"a", ["a"], "\ud800")],
    *[(T.BOOLEAN, value) for value in (0, 1, "true", None)],
    *[(T.EMBEDDING, value) for value in (1.0, "12", None, ["a"], [True], [[1.0]], [None], {"data": [1], "shape": [1]})],
    *[
        (T.TENSOR, value)
        for value in (
            [1.0],
            {"data": [1, 2, 3], "shape": [2, 2]},
            {"data": [[1, 2], [3]], "shape": [2, 2]},
            {"data": [[1, 2], 3], "shape": [2, 2]},
            {"data": [[[1], [2]], [[3], [4]]], "shape": [2, 2]},
            {"data": [1], "shape": [-1]},
            {"data": [1], "shape": [True]},
            {"data": [1], "shape": 1},
            {"data": 1, "shape": [1]},
            {"data": ["a"], "shape": [1]},
            {"data": [1]},
            None,
        )
    ],
]


@pytest.mark.parametrize(("kind", "given", "kept"), TAKEN)
def test_values_are_coerced_to_their_type(kind: VariableType, given: Any, kept: Any) -> None:
    value = coerce("v", kind, given)
    assert repr(value) == repr(kept)
    assert type(value) is type(kept)


@pytest.mark.parametrize(("kind", "given"), REFUSED)
def test_a_value_of_another_type_is_rejected(kind: VariableType, given: Any) -> None:
    with pytest.raises(ValidationError) as raised:
        coerce("the variable", kind, given)
    assert "the variable" in str(raised.value)


@pytest.mark.parametrize("kind", list(VariableType))
def test_values_are_hashable_and_so_immutable(kind: VariableType) -> None:
    for typed, given, _ in TAKEN:
        if typed is kind:
            assert hash(coerce("v", kind, given)) == hash(coerce("v", kind, given))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, T.BOOLEAN),
        (1, T.INTEGER),
        (1.0, T.FLOAT),
        (Fraction(1, 2), T.FLOAT),
        ("NaN", T.STRING),
        ("a", T.STRING),
        ([1, 2], T.EMBEDDING),
        ((0.5,), T.EMBEDDING),
        (Array(0.0, 0.0, shape=(2,)), T.EMBEDDING),
        ({"data": [1], "shape": [1]}, T.TENSOR),
        (Tensor((), (0,)), T.TENSOR),
        (Array([0.0], [0.0], shape=(2, 1)), T.TENSOR),
    ],
)
def test_the_type_is_inferred_from_the_value(value: Any, kind: VariableType) -> None:
    assert infer_type("v", value) is kind


@pytest.mark.parametrize("value", [None, {"data": [1]}, {}, b"bytes", object(), {1, 2}])
def test_a_value_without_a_type_is_rejected(value: Any) -> None:
    with pytest.raises(ValidationError, match="no type of variable holds a"):
        infer_type("v", value)


def test_an_integer_that_python_cannot_print_is_rejected() -> None:
    with pytest.raises(ValidationError, match="a value too large to print: an integer has at most 4,200 digits"):
        coerce("v", T.INTEGER, 10**5000)


def test_an_unknown_type_is_rejected_with_the_known_ones() -> None:
    with pytest.raises(ValidationError, match="float, integer, string, boolean, choice, module, embedding, tensor"):
        VariableType.of("v", "double")


def nested(depth: int) -> Any:
    value: Any = 1.0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [120, 350, 450, 900, 5_000, 100_000])
def test_a_tensor_that_is_too_deep_is_rejected(depth: int) -> None:
    data = nested(depth)
    for given in ({"data": data, "shape": [1] * depth}, Tensor(data, (1,) * depth)):
        with pytest.raises(ValidationError, match=r"Variable 't' can't be .*nested deeper than 100 levels"):
            coerce("t", T.TENSOR, given)
    with pytest.raises(ValidationError, match="Variable 't' can't be"):
        coerce("t", T.EMBEDDING, data)
    text = '{"type":"tensor","constraints":{},"value":{"data":' + "[" * depth + "1" + "]" * depth + ',"shape":[1]}}'
    with pytest.raises(ValidationError, match="nested (deeper|too deeply)"):
        Variable.decode("t", text.encode())


def test_a_cyclic_tensor_or_invalid_shape_is_rejected() -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    with pytest.raises(ValidationError, match="nested deeper"):
        coerce("t", T.TENSOR, {"data": cyclic, "shape": [1]})
    with pytest.raises(ValidationError, match="list of sizes"):
        coerce("t", T.TENSOR, {"data": [], "shape": [0, 10**5_000]})


@pytest.mark.parametrize(
    "constraints",
    [
        {"note": nested(5_000)},
        {"note": nested(150)},
        {"choices": nested(5_000)},
        {"pattern": "(" * 5_000},
        {"pattern": "a{99999999999}"},
        {"min": 10**5_000},
    ],
)
def test_a_constraint_that_cannot_be_encoded_is_rejected(constraints: Any) -> None:
    with pytest.raises(ValidationError, match="Variable 't' can't be constrained by"):
        Variable.declare("t", "x", constraints=constraints)
