"""Which arm of an experiment is best by a metric, or what that still needs."""

from __future__ import annotations

import pytest

from snakepit_bridge.rollouts.arm_comparisons import ArmComparison, compare_arms
from snakepit_bridge.rollouts.arm_counts import ArmCounts, ScoreSum
from snakepit_bridge.rollouts.arm_figures import LEVEL, ArmFigures


def arm(predictions: int, errors: int = 0, score: float | None = None, *, latency: str = "150") -> ArmFigures:
    scores = {} if score is None else {"helpful": ScoreSum(predictions, round(score * 1_000_000) * predictions)}
    counts = ArmCounts(predictions, {"LMError": errors}, {latency: predictions - errors}, {}, scores=scores)
    return ArmFigures.measure(counts, LEVEL / 2)


def compare(**arms: ArmFigures) -> dict[str, ArmComparison]:
    return {comparison.metric: comparison for comparison in compare_arms(arms)}


def test_an_arm_is_best_once_its_interval_lies_apart_from_all_others() -> None:
    found = compare(calm=arm(2_000, 20, 0.3), lively=arm(2_000, 400, 0.9))
    assert [(each, found[each].best, found[each].is_apart) for each in ("error rate", "score helpful")] == [
        ("error rate", "calm", True),
        ("score helpful", "lively", True),
    ]
    assert found["score helpful"].outlook == "lively is best"
    assert found["score helpful"].needed == {"calm": 0, "lively": 0}
    third = compare(calm=arm(2_000, score=0.3), lively=arm(2_000, score=0.9), loud=arm(20, score=0.88))["score helpful"]
    assert (third.best, third.is_apart) == ("lively", False)
    assert third.needed is None or third.needed["loud"] > 0


def test_what_is_still_needed_is_about_what_then_tells_the_arms_apart() -> None:
    before = compare(calm=arm(60, score=0.6), lively=arm(60, score=0.75))["score helpful"]
    assert not before.is_apart
    assert before.needed is not None
    more = max(before.needed.values())
    assert before.outlook.startswith("open: if the difference stays, about ")
    assert f"{before.needed['calm']:,} more of calm and {before.needed['lively']:,} more of lively" in before.outlook
    halfway = compare(calm=arm(60 + more // 3, score=0.6), lively=arm(60 + more // 3, score=0.75))["score helpful"]
    assert not halfway.is_apart
    after = compare(calm=arm(60 + 2 * more, score=0.6), lively=arm(60 + 2 * more, score=0.75))["score helpful"]
    assert after.is_apart


@pytest.mark.parametrize(
    ("first", "second", "metric", "outlook"),
    [
        (arm(100), arm(100), "error rate", "open: as measured, the arms are alike"),
        (arm(20), arm(20, latency="170"), "latency p95", "open: more values are needed to bound it"),
        (arm(100, score=0.5), arm(100), "score helpful", "open: values of two arms are needed"),
    ],
)
def test_what_cannot_be_estimated_says_why(first: ArmFigures, second: ArmFigures, metric: str, outlook: str) -> None:
    found = compare(calm=first, lively=second)[metric]
    assert (found.outlook, found.is_apart, found.needed) == (outlook, False, None)
    assert found.as_dict()["needed"] is None


def test_a_metric_without_values_is_left_out() -> None:
    assert compare(calm=arm(0), lively=arm(0)) == {}
