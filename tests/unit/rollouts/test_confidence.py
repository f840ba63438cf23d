"""Bounds that may be looked at all the time: they cover the mean at every look, merge, and narrow with more values."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakepit_bridge.rollouts.confidence import (
    EVEN,
    RARE,
    Interval,
    ValueSum,
    bound_contrast,
    bound_mean,
    log_martingale,
)
from tests.unit.rollouts.looks import is_ever_outside

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
    alpha, runs, truth = 0.1, 100, 0.05 if draw == "errors" else 0.4

    def looks(seed: int) -> Iterator[tuple[float, Callable[[], bool]]]:
        source, sample = random.Random(seed), ValueSum()
        for _ in range(300):
            value = float(source.random() < truth) if draw == "errors" else source.betavariate(2, 3)
            sample += ValueSum(1, value)
            yield log_martingale(sample, truth, EVEN), partial(contains, sample)

    def contains(sample: ValueSum) -> bool:
        found = bound_mean(sample, alpha)
        return found.low <= truth <= found.high

    # Four standard deviations above the level.
    assert sum(is_ever_outside(looks(seed), alpha) for seed in range(runs)) <= 1.6 * alpha * runs


@pytest.mark.parametrize(("count", "total"), [(-1, 0.0), (1, 1.5), (1, -0.1), (0, 1.0), (3, float("nan"))])
def test_sums_that_values_in_the_unit_interval_cant_have_are_rejected(count: int, total: float) -> None:
    with pytest.raises(ValueError, match="can't have the sum"):
        ValueSum(count, total)


def contrast(baseline: ValueSum, candidate: ValueSum, factor: float = 1.0, alpha: float = 0.05) -> Interval:
    return bound_contrast(baseline, candidate, factor, alpha, RARE)


@given(SAMPLES, SAMPLES, st.floats(0.5, 3))
def test_a_contrast_contains_the_measured_one(baseline: ValueSum, candidate: ValueSum, factor: float) -> None:
    found = contrast(baseline, candidate, factor)
    assert -factor - 1e-9 <= found.low <= found.high <= 1 + 1e-9
    if baseline.count and candidate.count:
        assert found.low <= candidate.mean - factor * baseline.mean + 1e-9
        assert found.high >= candidate.mean - factor * baseline.mean - 1e-9


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0, 1), st.floats(0, 1), st.sampled_from([0.8, 1.0, 1.5]))
@settings(max_examples=25)
def test_a_contrast_is_that_of_the_plausible_pairs(
    few: int, many: int, share: float, other: float, factor: float
) -> None:
    """The same bound, by trying a grid of all pairs of means."""
    baseline, candidate = ValueSum(few, min(few, few * share)), ValueSum(many, min(many, many * other))
    found = contrast(baseline, candidate, factor)
    grid = [step / 120 for step in range(121)]
    logs = [[log_martingale(arm, mean, RARE) for mean in grid] for arm in (baseline, candidate)]
    inside = [
        tried - factor * trusted
        for trusted, first in zip(grid, logs[0], strict=True)
        for tried, second in zip(grid, logs[1], strict=True)
        if first + second < -math.log(0.05)
    ]
    assert all(found.low - 1e-9 <= value <= found.high + 1e-9 for value in inside)
    # The region ends in tips, into which the grid doesn't reach far.
    assert not inside or min(inside) - found.low < 0.15
    assert not inside or found.high - max(inside) < 0.15


@given(SAMPLES, SAMPLES)
def test_a_contrast_the_other_way_round_is_the_opposite(baseline: ValueSum, candidate: ValueSum) -> None:
    found, back = contrast(baseline, candidate), contrast(candidate, baseline)
    assert found.low == pytest.approx(-back.high, abs=1e-4)
    assert found.high == pytest.approx(-back.low, abs=1e-4)


@pytest.mark.parametrize(("rate", "factor"), [(0.01, 1.0), (0.3, 1.0), (0.02, 1.5)])
def test_a_contrast_is_hardly_ever_left_at_any_look(rate: float, factor: float) -> None:
    alpha, runs, means = 0.2, 60, (rate, factor * rate)

    def looks(seed: int) -> Iterator[tuple[float, Callable[[], bool]]]:
        source, arms = random.Random(seed), [ValueSum(), ValueSum()]
        for _ in range(60):
            arms = [arm + errors(source, mean) for arm, mean in zip(arms, means, strict=True)]
            log = sum(log_martingale(arm, mean, RARE) for arm, mean in zip(arms, means, strict=True))
            yield log, partial(contains, *arms)

    def errors(source: random.Random, mean: float) -> ValueSum:
        return ValueSum(10, float(sum(source.random() < mean for _ in range(10))))

    def contains(baseline: ValueSum, candidate: ValueSum) -> bool:
        found = contrast(baseline, candidate, factor, alpha)
        return found.low <= 0 <= found.high

    assert sum(is_ever_outside(looks(seed), alpha) for seed in range(runs)) <= alpha * runs


def test_two_arms_of_equal_size_are_told_apart_sooner_than_by_a_bound_for_each() -> None:
    baseline, candidate = ValueSum(700, 7), ValueSum(700, 34)
    assert contrast(baseline, candidate).low > 0
    assert bound_mean(candidate, 0.025, RARE).low < bound_mean(baseline, 0.025, RARE).high


def test_a_rare_mean_is_bounded_more_tightly_where_it_is_expected() -> None:
    errors = ValueSum(500, 10)
    rare, even = bound_mean(errors, 0.05, RARE), bound_mean(errors, 0.05, EVEN)
    assert rare.high - rare.low < 0.9 * (even.high - even.low)


def test_counts_of_years_stay_exact_enough() -> None:
    found = contrast(ValueSum(10**10, 10**8), ValueSum(10**10, 1.001 * 10**8))
    assert 0 < found.low < 1e-5 < found.high < 2e-5
