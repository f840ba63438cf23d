"""Guards: a harmful candidate is found, a harmless one isn't, and a margin is allowed."""

from __future__ import annotations

import pytest

from snakepit_bridge.rollouts.confidence import ValueSum
from snakepit_bridge.rollouts.guards import GuardVerdict, Margin, compare, compare_with_bound


@pytest.mark.parametrize(
    ("baseline", "candidate", "margin", "verdict"),
    [
        (ValueSum(10_000, 100), ValueSum(600, 60), Margin(), GuardVerdict.BREACHED),
        (ValueSum(10_000, 100), ValueSum(600, 6), Margin(), GuardVerdict.OPEN),
        (ValueSum(10_000, 100), ValueSum(5_000, 50), Margin(absolute=0.02), GuardVerdict.HEALTHY),
        (ValueSum(10_000, 1_000), ValueSum(10_000, 1_300), Margin(), GuardVerdict.BREACHED),
        (ValueSum(100_000, 10_000), ValueSum(100_000, 13_000), Margin(relative=0.5), GuardVerdict.HEALTHY),
        (ValueSum(), ValueSum(), Margin(), GuardVerdict.OPEN),
        (ValueSum(10_000, 100), ValueSum(), Margin(), GuardVerdict.OPEN),
        (ValueSum(), ValueSum(1_000, 1_000), Margin(), GuardVerdict.OPEN),
    ],
)
def test_a_candidate_is_judged_by_both_arms_and_the_margin(
    baseline: ValueSum, candidate: ValueSum, margin: Margin, verdict: GuardVerdict
) -> None:
    assert compare(baseline, candidate, margin, 0.05).verdict is verdict


def test_the_harm_says_how_much_is_plausible() -> None:
    found = compare(ValueSum(10_000, 100), ValueSum(2_000, 200), Margin(), 0.05)
    assert 0.05 < found.harm.low < 0.09 < found.harm.high < 0.13


@pytest.mark.parametrize(
    ("candidate", "verdict"),
    [
        (ValueSum(1_000, 100), GuardVerdict.BREACHED),
        (ValueSum(1_000, 10), GuardVerdict.HEALTHY),
        (ValueSum(20, 1), GuardVerdict.OPEN),
    ],
)
def test_a_fixed_bound_needs_no_baseline(candidate: ValueSum, verdict: GuardVerdict) -> None:
    assert compare_with_bound(candidate, 0.05, 0.05).verdict is verdict
