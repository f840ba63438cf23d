"""People's JSON values cross Celery's messages as they were, and are bounded."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils import json as kombu_json

from snakepit_bridge.protocol.json_values import ValueBounds, dumps, escape, find_problem, loads, read_message, unescape

KEYS = st.sampled_from(["__type__", "__value__", "__data__", "v", "payload", "$payload", "$ref", "a"])
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["datetime", "decimal", "uuid", "base64"])
)
MARKED = st.recursive(
    LEAVES | st.fixed_dictionaries({"__type__": LEAVES, "__value__": LEAVES}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(MARKED)
def test_json_values_survive_stock_celery(value: Any) -> None:
    """Also one whose objects look like Celery's typed values, or like escaped ones."""
    assert unescape(kombu_json.loads(kombu_json.dumps(escape(value)))) == value
    assert loads(dumps(value)) == value
    assert unescape(escape(value)) == value


@given(MARKED)
def test_values_without_reserved_keys_are_not_copied(value: Any) -> None:
    if "__type__" not in json.dumps(value):
        assert escape(value) is value


def test_celerys_own_types_are_still_encoded_by_celery() -> None:
    """Dates, decimals, bytes and UUIDs."""
    value = {
        "at": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        "all": [Decimal("1.50"), b"hi", b"\xff\x00", UUID(int=5), date(2026, 1, 2)],
        "data": {"__type__": "datetime", "__value__": "2026-01-02"},
    }
    assert loads(dumps(value)) == value


@pytest.mark.parametrize(
    "document",
    [
        {"__type__": "Invoice", "__value__": 1},
        {"__type__": "datetime", "__value__": "not a time"},
        {"__type__": "uuid", "__value__": {"hex": "no"}},
        {"__type__": "base64", "__value__": 5},
        {"__type__": ["list"], "__value__": None},
        {"__type__": None, "__value__": None},
    ],
)
def test_lookalikes_of_typed_values_are_decoded_as_data(document: Any) -> None:
    """Stock Celery refuses the whole message."""
    assert read_message(json.dumps({"args": [document]})) == {"args": [document]}


def test_json_that_python_cannot_parse_is_rejected() -> None:
    """Neither a message's body nor a payload ends anything by a RecursionError."""
    for read in (read_message, loads):
        with pytest.raises(ValueError, match="nested too deeply"):
            read("[" * 100_000 + "]" * 100_000)


def test_a_forged_escape_stays_data() -> None:
    for forged in (
        {"__type__": 1, "__value__": 2, "__data__": {"other": 3}},
        {"__type__": 1, "__value__": 2, "__data__": 7},
    ):
        assert unescape(forged) == forged


def nested(depth: int, leaf: Any = 1) -> Any:
    for _ in range(depth):
        leaf = [leaf]
    return leaf


def test_depth_and_size_are_bounded_without_recursion() -> None:
    bounds = ValueBounds(depth=10, max_bytes=10_000)
    assert find_problem(nested(10), bounds) is None
    assert find_problem(nested(11), bounds) == "it is nested deeper than 10 levels"
    assert find_problem(nested(100_000), bounds) == "it is nested deeper than 10 levels"
    assert find_problem({"a": "x" * 10_000}, bounds) == "it is larger than 10000 bytes"
    assert find_problem({str(number): None for number in range(5_000)}, bounds) == "it is larger than 10000 bytes"
    shared: Any = []
    for _ in range(9):
        shared = [shared] * 100
    assert find_problem(shared, bounds) == "it is larger than 10000 bytes"
    assert find_problem(["é", "𝄞", "a\ud83d"], bounds) == "it holds a lone surrogate, which UTF-8 can't carry"
    assert find_problem({"a\udc00": 1}, bounds) == "it holds a lone surrogate, which UTF-8 can't carry"
    assert find_problem([10**5_000], bounds) == "it holds an integer of more than 4,200 digits"
    assert find_problem([10**4_000, float("nan"), timedelta(1)], bounds) is None
