"""Intervals of means: their level, their ends, and that they are the same each time."""

from __future__ import annotations

import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepit_bridge.evaluations.intervals import MeanInterval, interval_of_difference, interval_of_mean

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def test_scores_of_0_and_1_have_wilsons_interval() -> None:
    # From Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I: 81 of 263, and 0 of 20.
    found = interval_of_mean([1] * 81 + [0] * 182)
    assert (round(found.low, 4), round(found.high, 4), found.method) == (0.2553, 0.3662, "wilson")
    found = interval_of_mean([0] * 20)
    assert (round(found.low, 4), round(found.high, 4)) == (0.0, 0.1611)


@given(SCORES)
def test_an_interval_is_around_the_mean_and_the_same_each_time(scores: list[float]) -> None:
    found = interval_of_mean(scores)
    assert found.low - 1e-9 <= fmean(scores) <= found.high + 1e-9 or found.method == "bootstrap"
    assert min(scores) - 1e-9 <= found.high
    assert found.low <= max(scores) + 1e-9
    assert interval_of_mean(scores) == found
    assert MeanInterval.decode(found.encode()) == found


def test_the_bootstrap_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = random.Random(7)
    samples = [[generator.betavariate(2, 3) for _ in range(40)] for _ in range(200)]
    covered = sum(found.low <= 0.4 <= found.high for found in map(interval_of_mean, samples))
    assert 180 <= covered <= 199


def test_equal_pairs_leave_the_differences_plausible_that_so_many_examples_can_hide() -> None:
    few, many = interval_of_difference([0.0] * 10), interval_of_difference([0.0] * 1_000)
    assert (few.low, few.high) == pytest.approx((-0.2775, 0.2775), abs=1e-4)
    assert many.high == pytest.approx(0.0038, abs=1e-4)


def test_a_difference_in_most_pairs_is_far_from_zero() -> None:
    found = interval_of_difference([1.0] * 30 + [0.0] * 10)
    assert 0.5 < found.low < 0.75 < found.high < 0.95
