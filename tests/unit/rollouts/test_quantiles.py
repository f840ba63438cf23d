"""Bounds on quantiles cover at every look, narrow with values, and find a candidate that is slower."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepit_bridge.rollouts.confidence import RARE, ValueSum, log_martingale
from snakepit_bridge.rollouts.quantiles import bound_quantile, bound_quantile_ratio
from snakepit_bridge.rollouts.sketch import bucket_of, quantile
from tests.unit.rollouts.looks import is_ever_outside

P95 = math.exp(6 + 0.5 * 1.6448536)  # of the latencies below
SKETCHES = st.dictionaries(st.integers(-50, 300).map(str), st.integers(1, 500), min_size=1, max_size=30)


def latencies(seed: int, count: int, factor: float = 1.0) -> Counter[str]:
    source = random.Random(seed)
    return Counter(bucket_of(factor * source.lognormvariate(6, 0.5)) for _ in range(count))


@given(SKETCHES, st.floats(0.01, 0.99))
def test_bounds_contain_the_measured_quantile(buckets: dict[str, int], level: float) -> None:
    found = bound_quantile(buckets, level, 0.05)
    measured = quantile(buckets, level)
    assert measured is not None
    assert found.low <= measured <= found.high


@given(SKETCHES, SKETCHES, st.floats(0.01, 0.99))
def test_a_ratio_turned_around_has_the_bounds_turned_around(
    first: dict[str, int], second: dict[str, int], level: float
) -> None:
    ratio, inverse = (bound_quantile_ratio(*pair, level, 0.05) for pair in ((first, second), (second, first)))
    assert ratio.low == pytest.approx(1 / inverse.high if inverse.high else math.inf)
    assert inverse.low == pytest.approx(1 / ratio.high if ratio.high else math.inf)


def test_nothing_is_known_without_values() -> None:
    for baseline, candidate in (({}, {}), ({"3": 100}, {}), ({}, {"3": 100})):
        found = bound_quantile_ratio(baseline, candidate, 0.95, 0.05)
        assert (found.low, found.high) == (0.0, math.inf)


@pytest.mark.parametrize(("factor", "least", "most"), [(1.0, 0.8, 1.0), (1.5, 1.2, 1.5), (3.0, 2.4, 3.0)])
def test_a_slower_candidate_is_found(factor: float, least: float, most: float) -> None:
    found = bound_quantile_ratio(latencies(1, 20_000), latencies(2, 2_000, factor), 0.95, 0.0167)
    assert least <= found.low <= most * 1.02
    assert found.high >= factor / 1.02


def test_more_values_narrow_the_bounds() -> None:
    few, many = (bound_quantile(latencies(3, count), 0.95, 0.05) for count in (500, 20_000))
    assert many.high - many.low < 0.5 * (few.high - few.low)


class Arm:
    """Latencies as a sketch has them, and how much speaks against their true quantile."""

    def __init__(self) -> None:
        self.buckets = Counter[str]()
        self._above = ValueSum()

    def draw(self, source: random.Random, count: int) -> None:
        for _ in range(count):
            latency = source.lognormvariate(6, 0.5)
            self.buckets[bucket_of(latency)] += 1
            self._above += ValueSum(1, float(latency > P95))

    @property
    def log(self) -> float:
        """The logarithm of the martingale at the true quantile."""
        return log_martingale(self._above, 0.05, RARE)


def test_a_quantile_is_hardly_ever_outside_at_any_look() -> None:
    alpha, runs = 0.2, 100

    def looks(seed: int) -> Iterator[tuple[float, Callable[[], bool]]]:
        source, arm = random.Random(seed), Arm()
        for _ in range(40):
            arm.draw(source, 10)
            yield arm.log, lambda: contains(arm.buckets)

    def contains(buckets: Counter[str]) -> bool:
        found = bound_quantile(buckets, 0.95, alpha)
        return found.low <= P95 <= found.high

    assert sum(is_ever_outside(looks(seed), alpha) for seed in range(runs)) <= alpha * runs


def test_equal_arms_hardly_ever_differ_at_any_look() -> None:
    alpha, runs = 0.2, 60

    def looks(seed: int) -> Iterator[tuple[float, Callable[[], bool]]]:
        source, arms = random.Random(seed), (Arm(), Arm())
        for _ in range(20):
            for arm in arms:
                arm.draw(source, 20)
            yield sum(arm.log for arm in arms), lambda: contains(*(arm.buckets for arm in arms))

    def contains(baseline: Counter[str], candidate: Counter[str]) -> bool:
        found = bound_quantile_ratio(baseline, candidate, 0.95, alpha)
        return found.low <= 1 <= found.high

    assert sum(is_ever_outside(looks(seed), alpha) for seed in range(runs)) <= alpha * runs
