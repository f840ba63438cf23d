"""Tokens and money of LM calls: sums are exact, and the JSON form loses nothing."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepit_bridge.costs.usage import (
    LMUsage,
    decode_by_profile,
    encode_by_profile,
    format_usd,
    parse_usd,
    sum_usage,
)

counts = st.integers(0, 2**40)
usages = st.builds(LMUsage, counts, st.just(0), counts, counts, counts, counts, counts)


@given(st.lists(usages, max_size=20))
def test_money_adds_up_exactly(many: list[LMUsage]) -> None:
    assert sum_usage(many).cost_usd == sum((each.cost_usd or Decimal(0) for each in many), Decimal(0))


@given(usages)
def test_what_is_encoded_is_decoded(usage: LMUsage) -> None:
    assert decode_by_profile(encode_by_profile({"smart": usage})) == {"smart": usage}


@pytest.mark.parametrize(
    ("pico", "text"),
    [(0, "0"), (1, "0.000000000001"), (10**12, "1"), (150_000, "0.00000015"), (12 * 10**11, "1.2"), (10**13, "10")],
)
def test_money_is_decimal_text(pico: int, text: str) -> None:
    assert format_usd(pico) == text
    assert parse_usd(text) == pico


def test_what_only_unpriced_calls_cost_is_unknown_and_no_call_costs_nothing() -> None:
    assert LMUsage(calls=2, unpriced_calls=2).encode()["cost_usd"] is None
    assert LMUsage(calls=2, unpriced_calls=1, cost_pico=5).encode()["cost_usd"] == "0.000000000005"
    assert LMUsage().encode()["cost_usd"] == "0"
    assert LMUsage(calls=1).encode()["cost_usd"] == "0"


@pytest.mark.parametrize(
    "message",
    [
        [],
        "text",
        {"smart": 3},
        {1: {}},
        {"smart": {"calls": -1}},
        {"smart": {"calls": 1.5}},
        {"smart": {"calls": True}},
        {"smart": {"calls": 2**53 + 1}},
        {"smart": {"input_tokens": "9"}},
        {"smart": {"cost_usd": 0.5}},
        {"smart": {"cost_usd": "1e9"}},
        {"smart": {"cost_usd": "-1"}},
        {"smart": {"cost_usd": "9" * 13}},
    ],
)
def test_what_is_no_usage_is_refused(message: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        decode_by_profile(message)
