"""How many lines a limit of money lets through, by what those before cost."""

from __future__ import annotations

from decimal import Decimal

import pytest

from snakepit_bridge.client.bulk.checkpoint import BulkState
from snakepit_bridge.client.bulk.spending import SpendLimit


def state(cost_usd: str, priced: int) -> BulkState:
    return BulkState(cost_usd=Decimal(cost_usd), priced=priced)


@pytest.mark.parametrize(
    ("limit", "spent", "in_flight", "allowed"),
    [
        (None, state("5", 10), 3, None),
        ("10", state("0", 0), 0, 20),
        ("10", state("0.1", 5), 15, 5),
        ("10", state("5", 50), 30, 20),
        ("10", state("5", 50), 60, 0),
        ("10", state("9.95", 100), 0, 0),
        ("10", state("10", 100), 0, 0),
        ("10", state("0", 100), 0, None),
    ],
)
def test_what_is_in_flight_is_expected_to_cost_as_much_as_what_has_ended(
    limit: str | None, spent: BulkState, in_flight: int, allowed: int | None
) -> None:
    assert SpendLimit(None if limit is None else Decimal(limit)).count_allowed(spent, in_flight) == allowed
