"""What a prediction uses: counted until its result is made, and carried along by the message of a retry."""

from __future__ import annotations

from typing import Any

import pytest

from snakepit_bridge.costs.usage import LMUsage
from tasks.spending import LM_USAGE, bind_spending, find_spending, spending_headers, track_spending

USAGE = LMUsage(1, 0, 10, 2, 5, 1, 77)


def test_what_is_used_within_a_delivery_is_its_own() -> None:
    with track_spending("a"):
        bind_spending("a", "qa", "s", "1.1").add("smart", USAGE)
        with track_spending("b"):
            assert find_spending("a") is None
        assert find_spending("a").by_profile == {"smart": USAGE}
    assert find_spending("a") is None


def test_a_call_that_ends_after_its_prediction_is_not_counted() -> None:
    spending = bind_spending("a", "qa", "s", "1.1")
    spending.add("smart", USAGE)
    assert spending.close() == {"smart": USAGE}
    spending.add("smart", USAGE)
    assert spending.close() == {"smart": USAGE}


def test_a_retry_counts_on() -> None:
    with track_spending("a"):
        assert spending_headers("a") == {}
        bind_spending("a", "qa", "s", "1.1").add("smart", USAGE)
        headers = spending_headers("a")
        assert spending_headers("b") == {}
    with track_spending("a", headers):
        find_spending("a").add("smart", USAGE)
        assert find_spending("a").by_profile == {"smart": USAGE + USAGE}


@pytest.mark.parametrize(
    "header",
    [
        None,
        "text",
        7,
        [1],
        {"smart": 1},
        {"smart": {"calls": -1}},
        {"smart": {"cost_usd": "NaN"}},
        {"x": {"calls": 1e9}},
        {"smart": {"calls": 1, "cost_usd": "10000.01"}},
        {"smart": {"calls": 1, "output_tokens": 10**11}},
        {"smart": {"calls": 1, "cost_usd": "999999999999"}},
        {f"p{number}": {"calls": 1, "cost_usd": "1"} for number in range(101)},
    ],
)
def test_a_malformed_header_counts_as_none(header: Any) -> None:
    with track_spending("a", {LM_USAGE: header}):
        assert find_spending("a").by_profile == {}


def test_what_earlier_deliveries_used_of_unknown_profiles_is_dropped() -> None:
    header = {name: USAGE.encode() for name in ("smart", "invented")}
    with track_spending("a", {LM_USAGE: header}):
        assert bind_spending("a", "qa", "s", "1.1", {"smart"}).by_profile == {"smart": USAGE}
