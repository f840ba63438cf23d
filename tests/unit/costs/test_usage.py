"""Tokens and money of LM calls: counted alike for every provider, summed exactly, and whole in their JSON form."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from dspy.lm15 import Usage
from hypothesis import given
from hypothesis import strategies as st

from snakepit_bridge.costs.usage import (
    LMUsage,
    Price,
    charge_usage,
    decode_by_profile,
    encode_by_profile,
    format_usd,
    parse_usd,
    sum_usage,
)

PRICE = Price.of(input=1, cached_input=0.1, output=10, reasoning=5)
REPORTED = Usage(input_tokens=100, output_tokens=50, cache_read_tokens=40, cache_write_tokens=5, reasoning_tokens=20)

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


@pytest.mark.parametrize(
    ("dialect", "given", "written"),
    [
        ("openai-chat", 100, 50),
        ("openai-responses", 100, 50),
        ("", 100, 50),
        ("anthropic", 145, 50),  # cached input comes beside the input
        ("gemini", 100, 70),  # and reasoning beside the output
        ("xai", 100, 70),
    ],
)
def test_tokens_are_counted_alike_for_every_provider(dialect: str, given: int, written: int) -> None:
    usage = charge_usage(REPORTED, dialect, PRICE)
    assert usage == LMUsage(1, 0, given, 40, written, 20, usage.cost_pico)
    assert usage.cost_pico == (given - 40) * 10**6 + 40 * 10**5 + (written - 20) * 10**7 + 20 * 5 * 10**6


def test_a_call_without_price_or_without_usage_is_unpriced_and_not_free() -> None:
    assert charge_usage(REPORTED, "", None) == LMUsage(1, 1, 100, 40, 50, 20)
    assert charge_usage(Usage(), "", PRICE) == LMUsage(1, 1)
    assert charge_usage(Usage(input_tokens=7), "", PRICE) == LMUsage(1, 1, 7)
    assert charge_usage(Usage(input_tokens=7, output_tokens=0), "", Price.of(input=0, output=0)) == LMUsage(1, 0, 7)


@pytest.mark.parametrize("count", [10**9, 10**30])
def test_a_count_that_no_model_has_is_not_believed(count: int) -> None:
    assert charge_usage(Usage(input_tokens=count, output_tokens=1), "", PRICE) == LMUsage(1, 1, 0, 0, 1)


@pytest.mark.parametrize("count", [-1, "7", float("nan"), 1.5, True, [7]])
def test_a_count_that_is_no_number_is_not_believed(count: Any) -> None:
    usage = Usage(output_tokens=1)
    object.__setattr__(usage, "input_tokens", count)
    assert charge_usage(usage, "", PRICE) == LMUsage(1, 1, 0, 0, 1)


def test_parts_are_never_more_than_the_whole() -> None:
    odd = Usage(input_tokens=3, output_tokens=2, cache_read_tokens=9, reasoning_tokens=9)
    assert charge_usage(odd, "openai-chat", PRICE) == LMUsage(1, 0, 3, 3, 2, 2, 3 * 10**5 + 2 * 5 * 10**6)
