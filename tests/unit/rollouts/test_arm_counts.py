"""An arm's counts are read from a hash's fields, add up, and become samples of values from 0 to 1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepit_bridge.rollouts.arm_counts import ArmCounts, ScoreSum
from snakepit_bridge.rollouts.confidence import ValueSum
from snakepit_bridge.rollouts.sketch import bucket_of

FIELDS = st.dictionaries(
    st.sampled_from(
        ["n", "in", "pico", "e:LMError", "e:ValueError", "lat:z", "lat:-3", "usd:70", "s:helpful:n", "s:helpful:m"]
    ),
    st.integers(0, 10_000),
)


def test_the_fields_of_a_hash_become_counts() -> None:
    found = ArmCounts.parse(
        {"n": 10, "e:LMError": 2, "e:ValueError": 1, "lat:120": 6, "usd:z": 1, "usd:70": 5}
        | {"in": 900, "out": 80, "pico": 7, "s:helpful:n": 4, "s:helpful:m": 2_500_000, "s:tone:l:n": 1}
    )
    assert found == ArmCounts(
        predictions=10,
        errors={"LMError": 2, "ValueError": 1},
        latency={"120": 6},
        cost={"z": 1, "70": 5},
        input_tokens=900,
        output_tokens=80,
        cost_pico=7,
        scores={"helpful": ScoreSum(4, 2_500_000)},
    )


def test_fields_of_a_newer_version_are_left_out() -> None:
    assert ArmCounts.parse({"n": 1, "q:3": 4, "later": 5, "s:helpful:max": 1}) == ArmCounts(predictions=1)


def test_what_is_no_bucket_is_refused() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        ArmCounts.parse({"lat:fast": 1})


@given(FIELDS, FIELDS)
def test_counts_add_up_as_their_fields_do(first: dict[str, int], second: dict[str, int]) -> None:
    together = {name: first.get(name, 0) + second.get(name, 0) for name in first | second}
    assert ArmCounts.parse(first) + ArmCounts.parse(second) == ArmCounts.parse(together)


@given(FIELDS)
def test_nothing_is_added_by_counts_of_nothing(fields: dict[str, int]) -> None:
    assert ArmCounts.parse(fields) + ArmCounts() == ArmCounts.parse(fields)


@given(FIELDS)
def test_every_sample_is_possible(fields: dict[str, int]) -> None:
    """A minute's hash may be read between two commits, and a changed score leaves its sum behind for a moment."""
    counts = ArmCounts.parse(fields)
    for sample in (counts.failures, counts.slower_than(1.0), counts.capped_cost(0.01), counts.shortfalls("helpful")):
        assert 0 <= sample.total <= sample.count


def test_a_cancelled_prediction_says_nothing_of_its_arm() -> None:
    counts = ArmCounts(predictions=10, errors={"PredictionCancelledError": 4, "LMError": 1})
    assert counts.failures == ValueSum(6, 1.0)


def test_latencies_are_compared_with_a_limit_in_seconds() -> None:
    counts = ArmCounts(latency={bucket_of(900): 7, bucket_of(1_500): 2, bucket_of(60_000): 1})
    assert counts.slower_than(1.0) == ValueSum(10, 3.0)


def test_a_cost_counts_up_to_its_cap() -> None:
    counts = ArmCounts(cost={bucket_of(5_000): 2, bucket_of(90_000): 1, "z": 1})
    found = counts.capped_cost(0.01)
    assert found.count == 4
    assert found.total == pytest.approx(2.0, rel=0.02)


def test_scores_become_what_they_lack() -> None:
    counts = ArmCounts(scores={"helpful": ScoreSum(4, 3_000_000)})
    assert counts.shortfalls("helpful") == ValueSum(4, 1.0)
    assert counts.shortfalls("polite") == ValueSum()
