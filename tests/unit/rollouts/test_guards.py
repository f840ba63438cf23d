"""Guards: a harmful candidate is found, a harmless one isn't, and a margin is allowed."""

from __future__ import annotations

import pytest

from snakepit_bridge.rollouts.confidence import Sample
from snakepit_bridge.rollouts.guards import Margin, Verdict, bound_absolute, compare


@pytest.mark.parametrize(
    ("baseline", "candidate", "margin", "verdict"),
    [
        (Sample(10_000, 100), Sample(600, 60), Margin(), Verdict.BREACHED),
        (Sample(10_000, 100), Sample(600, 6), Margin(), Verdict.OPEN),
        (Sample(10_000, 100), Sample(5_000, 50), Margin(absolute=0.02), Verdict.HEALTHY),
        (Sample(10_000, 1_000), Sample(10_000, 1_300), Margin(), Verdict.BREACHED),
        (Sample(100_000, 10_000), Sample(100_000, 13_000), Margin(relative=0.5), Verdict.HEALTHY),
        (Sample(), Sample(), Margin(), Verdict.OPEN),
        (Sample(10_000, 100), Sample(), Margin(), Verdict.OPEN),
        (Sample(), Sample(1_000, 1_000), Margin(), Verdict.OPEN),
    ],
)
def test_a_candidate_is_judged_by_both_arms_and_the_margin(
    baseline: Sample, candidate: Sample, margin: Margin, verdict: Verdict
) -> None:
    assert compare(baseline, candidate, margin, 0.05).verdict is verdict


def test_the_harm_says_how_much_is_plausible() -> None:
    found = compare(Sample(10_000, 100), Sample(2_000, 200), Margin(), 0.05)
    assert 0.05 < found.harm[0] < 0.09 < found.harm[1] < 0.13


@pytest.mark.parametrize(
    ("candidate", "verdict"),
    [
        (Sample(1_000, 100), Verdict.BREACHED),
        (Sample(1_000, 10), Verdict.HEALTHY),
        (Sample(20, 1), Verdict.OPEN),
    ],
)
def test_a_fixed_bound_needs_no_baseline(candidate: Sample, verdict: Verdict) -> None:
    assert bound_absolute(candidate, 0.05, 0.05) is verdict
