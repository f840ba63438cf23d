"""Prices: exact to the token, and refused with the reason if they can't be."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepit_bridge.costs.usage import PICO_PER_USD, LMUsage, Price

prices = st.decimals(0, 10_000, places=6)


@given(prices, prices, st.none() | prices, st.none() | prices, st.integers(0, 10**8), st.integers(0, 10**8))
def test_no_price_loses_anything(
    given: Decimal, written: Decimal, cached: Decimal | None, reasoning: Decimal | None, many: int, more: int
) -> None:
    price = Price(given, written, cached, reasoning)
    expected = (
        many * given
        + many * (given if cached is None else cached)
        + more * written
        + more * (written if reasoning is None else reasoning)
    ) / 10**6
    tokens = LMUsage(1, 0, 2 * many, many, 2 * more, more)
    assert Decimal(price.cost_pico(tokens)) / PICO_PER_USD == expected


def test_a_float_is_the_number_that_was_written() -> None:
    price = Price.of(input=0.1, cached_input=0.075, output="0.60", reasoning=3)
    assert price == Price(Decimal("0.1"), Decimal("0.60"), Decimal("0.075"), Decimal(3))
    assert price.cost_pico(LMUsage(1, 0, 3)) == 300_000


def test_cached_input_and_reasoning_cost_what_the_rest_does_unless_they_have_a_price() -> None:
    tokens = LMUsage(1, 0, 10, 4, 10, 4)
    assert Price.of(input=1, output=2).cost_pico(tokens) == 30 * 10**6
    assert Price.of(input=1, output=2, cached_input=0, reasoning=5).cost_pico(tokens) == (6 + 12 + 20) * 10**6


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"input": 1}, "output: it is missing; a model that costs nothing has 0"),
        ({"output": 1}, "input: it is missing"),
        ({"input": 1, "output": 1, "cache": 1}, "cache: there is no such price; they are input, output"),
        ({"input": -1, "output": 1}, "input: a price is 0 to 10000 USD per million tokens; got -1"),
        ({"input": 1, "output": 10_001}, "output: a price is 0 to 10000 USD"),
        ({"input": float("nan"), "output": 1}, "input: a price is 0 to 10000 USD"),
        ({"input": float("inf"), "output": 1}, "input: a price is 0 to 10000 USD"),
        ({"input": 1e-7, "output": 1}, "input: a price has at most six decimals; got 1E-7"),
        ({"input": "much", "output": 1}, "input: a price is a number of USD per million tokens; got 'much'"),
        ({"input": True, "output": 1}, "input: a price is a number"),
        ({"input": [1], "output": 1}, "input: a price is a number"),
    ],
)
def test_what_is_no_price_is_refused_by_its_name(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match="price|missing") as refused:
        Price.of(**given)
    assert problem in str(refused.value)
