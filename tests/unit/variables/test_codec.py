"""Canonical JSON: one text per value, and every value back as it was."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakepit_bridge.variables import Variable, VariableType
from snakepit_bridge.variables.codec import encode_canonical, parse, quote_non_finite, shorten_repr

texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.floats(allow_nan=True, allow_infinity=True)
values = st.one_of(
    st.tuples(st.just(VariableType.FLOAT), numbers),
    st.tuples(st.just(VariableType.INTEGER), st.integers()),
    st.tuples(st.just(VariableType.BOOLEAN), st.booleans()),
    st.tuples(st.sampled_from([VariableType.STRING, VariableType.CHOICE, VariableType.MODULE]), texts),
    st.tuples(st.just(VariableType.EMBEDDING), st.lists(numbers, max_size=20)),
    st.tuples(
        st.just(VariableType.TENSOR),
        st.lists(st.lists(numbers | st.integers(), min_size=3, max_size=3), min_size=1, max_size=4).map(
            lambda rows: {"data": rows, "shape": [len(rows), 3]}
        ),
    ),
)


@settings(deadline=None)
@given(name=texts, typed=values)
def test_encoding_round_trips_and_is_stable(name: str, typed: tuple[VariableType, object]) -> None:
    variable = Variable(name, typed[0], typed[1])
    again = Variable.decode(name, variable.encode())
    assert again == variable
    assert again.encode() == variable.encode()
    assert repr(again.value) == repr(variable.value)


@settings(deadline=None)
@given(left=values, right=values)
def test_variables_are_equal_exactly_when_their_bytes_are(
    left: tuple[VariableType, object], right: tuple[VariableType, object]
) -> None:
    first, second = (Variable.declare("v", value, kind) for kind, value in (left, right))
    assert (first == second) is (first.encode() == second.encode())


def test_keys_have_one_order_and_text_is_plain_utf8() -> None:
    assert encode_canonical({"b": 1, "a": "ü"}) == '{"a":"ü","b":1}'.encode()


@pytest.mark.parametrize("number", [0.30000000000000004, 1e30, -0.0, 5e-324, 1.7976931348623157e308, 0.1])
def test_floats_keep_every_digit(number: float) -> None:
    assert repr(parse(encode_canonical(number))) == repr(number)


@pytest.mark.parametrize("number", [10**30, 10**30 + 1, -(2**63) - 1])
def test_integers_are_exact_at_any_size(number: int) -> None:
    assert parse(encode_canonical(number)) == number


def test_non_finite_floats_are_quoted() -> None:
    assert quote_non_finite([math.nan, [math.inf, -math.inf], 1.5, 2]) == ["NaN", ["Infinity", "-Infinity"], 1.5, 2]


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "-Infinity", "{", ""])
def test_invalid_json_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_bare_non_finite_floats_are_rejected() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_canonical(math.nan)


def test_large_values_are_truncated_in_messages() -> None:
    assert len(shorten_repr(list(range(3000)))) < 100
    assert len(shorten_repr("x" * 3000)) < 100
    assert shorten_repr(10**5000) == "a value too large to print"
