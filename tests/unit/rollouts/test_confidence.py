"""Bounds that may be looked at all the time: they cover the mean at every look, merge, and narrow with more values."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepit_bridge.rollouts.confidence import ValueSum, bound_mean

SAMPLES = st.integers(0, 5_000).flatmap(
    lambda count: st.floats(0, count).map(lambda total: ValueSum(count, min(float(count), total)))
)


@given(SAMPLES, st.sampled_from([0.001, 0.01, 0.05, 0.2]))
def test_bounds_contain_the_samples_own_mean(sample: ValueSum, alpha: float) -> None:
    found = bound_mean(sample, alpha)
    assert 0 <= found.low <= sample.mean <= found.high <= 1


def test_nothing_is_known_without_values() -> None:
    found = bound_mean(ValueSum(), 0.05)
    assert (found.low, found.high) == (0.0, 1.0)


@given(st.integers(1, 2_000), st.floats(0, 1))
def test_more_values_of_the_same_mean_narrow_the_bounds(count: int, mean: float) -> None:
    few, many = (bound_mean(ValueSum(n, min(float(n), n * mean)), 0.05) for n in (count, 4 * count))
    assert many.high - many.low <= few.high - few.low + 1e-9


@given(SAMPLES)
def test_a_smaller_risk_widens_the_bounds(sample: ValueSum) -> None:
    safe, bold = bound_mean(sample, 0.01), bound_mean(sample, 0.1)
    assert safe.low <= bold.low
    assert safe.high >= bold.high


@given(SAMPLES)
def test_bounds_are_symmetric_in_success_and_failure(sample: ValueSum) -> None:
    found = bound_mean(sample, 0.05)
    mirrored = bound_mean(ValueSum(sample.count, sample.count - sample.total), 0.05)
    assert mirrored.low == pytest.approx(1 - found.high, abs=1e-6)
    assert mirrored.high == pytest.approx(1 - found.low, abs=1e-6)


@pytest.mark.parametrize("draw", ["errors", "scores"])
def test_the_mean_is_hardly_ever_outside_at_any_look(draw: str) -> None:
    """A fixed-sample interval of the same level would be left by most of these runs."""
    alpha, runs, left = 0.1, 200, 0
    for seed in range(runs):
        source, sample = random.Random(seed), ValueSum()
        for _ in range(400):
            value = float(source.random() < 0.05) if draw == "errors" else source.betavariate(2, 3)
            sample += ValueSum(1, value)
            found = bound_mean(sample, alpha)
            if not found.low <= (0.05 if draw == "errors" else 0.4) <= found.high:
                left += 1
                break
    assert left <= 1.6 * alpha * runs  # four standard deviations above the level


@pytest.mark.parametrize(("count", "total"), [(-1, 0.0), (1, 1.5), (1, -0.1), (0, 1.0), (3, float("nan"))])
def test_sums_that_values_in_the_unit_interval_cant_have_are_rejected(count: int, total: float) -> None:
    with pytest.raises(ValueError, match="can't have the sum"):
        ValueSum(count, total)
