"""Sketches know each value, quantile and mean within 2 %, and merge by addition."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepit_bridge.rollouts.sketch import (
    MAX_INDEX,
    RELATIVE_ERROR,
    bucket_of,
    count_values,
    index_of,
    mean_capped,
    merge,
    quantile,
    representative,
    share_above,
    upper_edge,
)

POSITIVE = st.floats(1e-6, 1e12)
VALUES = st.lists(st.one_of(POSITIVE, st.just(0.0)), min_size=1, max_size=60)
WITHIN = RELATIVE_ERROR + 1e-9


def sketch(values: list[float]) -> dict[str, int]:
    return merge({bucket_of(value): 1} for value in values)


@given(POSITIVE)
def test_a_value_is_within_two_percent_of_its_buckets_representative(value: float) -> None:
    assert representative(index_of(bucket_of(value))) == pytest.approx(value, rel=WITHIN)


@given(POSITIVE, POSITIVE)
def test_buckets_are_in_the_order_of_their_values(first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert index_of(bucket_of(low)) <= index_of(bucket_of(high))
    assert upper_edge(index_of(bucket_of(low))) >= low * (1 - 1e-9)


@given(VALUES, st.floats(0, 1))
def test_a_quantile_is_within_two_percent(values: list[float], level: float) -> None:
    exact = sorted(values)[math.floor(level * (len(values) - 1))]
    assert quantile(sketch(values), level) == pytest.approx(exact, rel=WITHIN)


@given(VALUES, POSITIVE)
def test_a_capped_mean_is_within_two_percent(values: list[float], cap: float) -> None:
    exact = sum(min(value, cap) for value in values) / len(values)
    assert mean_capped(sketch(values), cap) == pytest.approx(exact, rel=WITHIN)


@given(VALUES, POSITIVE)
def test_a_share_above_counts_no_value_below_and_each_that_is_clearly_above(values: list[float], limit: float) -> None:
    share = share_above(sketch(values), limit)
    width = (1 + WITHIN) / (1 - WITHIN)
    assert sum(value > limit * width for value in values) / len(values) <= share + 1e-9
    assert share <= sum(value > limit * (1 - 1e-9) for value in values) / len(values) + 1e-9


@given(VALUES, VALUES)
def test_the_sketch_of_all_values_is_the_sum_of_the_parts(first: list[float], second: list[float]) -> None:
    together = merge([sketch(first), sketch(second)])
    assert together == sketch(first + second)
    assert count_values(together) == len(first) + len(second)


def test_without_values_there_is_no_quantile() -> None:
    assert quantile({}, 0.5) is None
    assert share_above({}, 1.0) == 0.0
    assert mean_capped({}, 1.0) == 0.0


@pytest.mark.parametrize(
    ("value", "name"),
    [(0.0, "z"), (-3.0, "z"), (1.0, "0"), (1.0001, "1"), (0.99, "0"), (0.9, "-2"), (1_000.0, "173")],
)
def test_buckets_have_known_names(value: float, name: str) -> None:
    assert bucket_of(value) == name


@pytest.mark.parametrize(("value", "name"), [(1e300, str(MAX_INDEX)), (math.inf, str(MAX_INDEX)), (1e-300, "-1000")])
def test_values_beyond_all_measure_share_the_last_bucket(value: float, name: str) -> None:
    assert bucket_of(value) == name


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        bucket_of(math.nan)


@pytest.mark.parametrize("name", ["1001", "-1001", "", "x", "1.5"])
def test_what_is_no_buckets_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="1001|invalid literal"):
        index_of(name)
