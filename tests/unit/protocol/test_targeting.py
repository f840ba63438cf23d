"""Targeting keys and attributes: what can't be one is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from snakepit_bridge.protocol.targeting import MAX_KEY_BYTES, check_attributes, check_key


@pytest.mark.parametrize("key", ["user-42", "ä" * (MAX_KEY_BYTES // 2), " "])
def test_text_is_a_key(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("", "isn't empty"),
        (None, "NoneType"),
        (42, "int"),
        ("x" * 2**20, "at most 1024 bytes; got 1048576"),
        ("\ud83d", "UTF-8"),
    ],
)
def test_what_is_no_key_is_refused_by_name(key: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_key(key)


def test_attributes_are_text_numbers_and_booleans() -> None:
    attributes = {"plan": "pro", "age": 42, "score": 0.5, "beta": True}
    assert check_attributes(attributes) == attributes


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        (["plan"], "a mapping of names to values; got list"),
        ({"plan": None}, "'plan' is text.*got NoneType"),
        ({"plan": ["pro"]}, "got list"),
        ({"age": float("nan")}, "a finite number"),
        ({"plan": "x" * 257}, "at most 256 characters"),
        ({"x" * 257: 1}, "name is text"),
        ({1: 1}, "name is text"),
        ({str(number): 1 for number in range(33)}, "at most 32 attributes; got 33"),
    ],
)
def test_what_are_no_attributes_is_refused_by_name(attributes: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_attributes(attributes)
