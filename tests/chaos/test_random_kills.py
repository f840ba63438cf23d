"""The chaos benchmark as a test: kills, a broker that comes and goes, a network that is cut."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import chaos
from tests.harness.preloaded import start_preloaded

pytestmark = pytest.mark.chaos

# What benchmarks/_chaos.py tells its workers.
BOUND = 20


def assert_nothing_is_lost(figures: dict[str, Any]) -> None:
    assert figures["stock"]["lost"] > 0, f"it proves nothing where stock Celery loses nothing either: {figures}"
    assert figures["lost"] == 0, figures
    assert figures["double_commits"] == 0, figures
    assert 1 < figures["max_deliveries"] <= BOUND, figures


@pytest.mark.timeout(240)
def test_a_short_storm_costs_the_fleet_no_task() -> None:
    assert_nothing_is_lost(chaos.run(quick=True, start_process=start_preloaded))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_long_storm_costs_the_fleet_no_task() -> None:
    assert_nothing_is_lost(chaos.run())
