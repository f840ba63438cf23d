"""Who gets a candidate: the same as the vectors say, uniform, sticky, and with a larger share only more keys."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepit_bridge.rollouts.assignment import (
    MAX_KEY_BYTES,
    MILLION,
    bucket,
    choose_arm,
    is_candidate,
    is_within,
    parse_share,
)

_FILE = Path(__file__).parents[2] / "vectors" / "assignment.json"
VECTORS: list[dict[str, Any]] = json.loads(_FILE.read_text(encoding="utf-8"))["vectors"]
SHARES = st.integers(0, MILLION)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['salt']} {vector['key'][:20]!r}")
def test_a_key_has_the_bucket_of_the_vectors(vector: dict[str, Any]) -> None:
    salt, key, share = vector["salt"], vector["key"], vector["first_share"]
    assert str(bucket(salt, key)) == vector["bucket"]
    assert is_candidate(salt, key, share)
    assert not is_candidate(salt, key, share - 1)


def test_buckets_are_uniform() -> None:
    count, cells = 20_000, 50
    found = Counter(bucket("salt", f"user-{number}") * cells >> 64 for number in range(count))
    expected = count / cells
    chi_square = sum((found[cell] - expected) ** 2 / expected for cell in range(cells))
    assert chi_square < 85.4  # the 0.999 quantile of 49 degrees of freedom


def test_rollouts_try_different_keys_first() -> None:
    keys = [f"user-{number}" for number in range(5_000)]
    first, second = ({key for key in keys if is_candidate(salt, key, MILLION // 10)} for salt in ("a", "b"))
    assert len(first & second) < 0.3 * len(first)


@given(st.text(max_size=40), SHARES, SHARES)
def test_a_larger_share_only_adds_keys(key: str, first: int, second: int) -> None:
    small, large = sorted((first, second))
    assert is_candidate("salt", key, small) <= is_candidate("salt", key, large)


@given(st.text(max_size=40))
def test_no_share_has_no_key_and_the_whole_has_all(key: str) -> None:
    assert not is_candidate("salt", key, 0)
    assert is_candidate("salt", key, MILLION)


@given(st.text(max_size=40), SHARES)
def test_an_experiment_of_two_arms_is_assigned_like_a_rollout(key: str, share: int) -> None:
    assert (choose_arm("salt", key, [share, MILLION - share]) == 0) == is_candidate("salt", key, share)


def test_arms_get_what_they_weigh() -> None:
    weights = [100_000, 0, 300_000, 600_000]
    found = Counter(choose_arm("salt", f"user-{number}", weights) for number in range(20_000))
    assert found[1] == 0
    for arm in (0, 2, 3):
        assert abs(found[arm] / 20_000 - weights[arm] / MILLION) < 0.015


@given(st.text(max_size=40), st.lists(SHARES, min_size=1, max_size=5))
def test_ranges_that_meet_divide_a_layer(key: str, shares: list[int]) -> None:
    bounds = [0, *sorted(shares), MILLION]
    assert sum(is_within(bucket("layer", key), *each) for each in pairwise(bounds)) == 1


@pytest.mark.parametrize("weights", [[], [MILLION - 1], [MILLION + 1, -1], [MILLION, 1]])
def test_weights_that_are_no_whole_are_rejected(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="sum up to"):
        choose_arm("salt", "key", [*weights, 0])


def test_a_key_that_is_too_long_is_rejected() -> None:
    with pytest.raises(ValueError, match="1024 bytes"):
        bucket("salt", "é" * (MAX_KEY_BYTES // 2 + 1))


@pytest.mark.parametrize(
    ("value", "share"), [(0, 0), (1, MILLION), (0.01, 10_000), (0.1, 100_000), (0.333333, 333_333)]
)
def test_a_share_is_exact(value: float, share: int) -> None:
    assert parse_share(value) == share


@pytest.mark.parametrize("value", [-0.1, 1.1, 0.1234567, float("nan"), float("inf"), "0.5", None, True, [0.5]])
def test_what_is_no_share_is_rejected(value: object) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        parse_share(value)
