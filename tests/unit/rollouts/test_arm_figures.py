"""An arm's figures: what is measured, and bounds that contain it."""

from __future__ import annotations

import pytest

from snakepit_bridge.rollouts.arm_counts import ArmCounts, ScoreSum
from snakepit_bridge.rollouts.arm_figures import ArmFigures
from snakepit_bridge.rollouts.confidence import RARE, Interval, bound_mean
from snakepit_bridge.rollouts.guard_reports import ArmFigure
from snakepit_bridge.rollouts.sketch import bucket_of

COUNTS = ArmCounts(
    200,
    {"LMError": 20, "PredictionCancelledError": 100},
    {bucket_of(100.0): 90, bucket_of(2_000.0): 10},
    scores={"helpful": ScoreSum(40, 30_000_000), "kind": ScoreSum()},
)


def test_each_value_is_within_its_bounds() -> None:
    figures = ArmFigures.measure(COUNTS, 0.05)
    assert figures.error_rate == ArmFigure(100, 0.2, bound_mean(COUNTS.failures, 0.05, RARE)), "cancelled ones aside"
    assert figures.latency_p50.value == pytest.approx(0.1, rel=0.02)
    assert figures.latency_p95.value == pytest.approx(2.0, rel=0.02)
    assert (figures.scores["helpful"].count, figures.scores["helpful"].value) == (40, 0.75)
    for figure in (figures.error_rate, figures.latency_p50, figures.latency_p95, figures.scores["helpful"]):
        assert figure.value is not None
        assert figure.bounds.low < figure.value < figure.bounds.high


def test_a_smaller_alpha_gives_wider_bounds() -> None:
    for name in ("error_rate", "latency_p95"):
        wide, narrow = (getattr(ArmFigures.measure(COUNTS, alpha), name).bounds for alpha in (0.001, 0.2))
        assert wide.low <= narrow.low < narrow.high <= wide.high
        assert wide != narrow


def test_without_values_nothing_is_known() -> None:
    figures = ArmFigures.measure(ArmCounts(), 0.05)
    assert figures.error_rate == ArmFigure(0, None, Interval(0.0, 1.0))
    assert (figures.latency_p95.count, figures.latency_p95.value, figures.scores) == (0, None, {})
    assert ArmFigures.measure(COUNTS, 0.05).scores["kind"] == ArmFigure(0, None, Interval(0.0, 1.0))


def test_as_dict_has_no_infinity() -> None:
    found = ArmFigures.measure(ArmCounts(), 0.05).as_dict()
    assert found["latency_p50_s"] == {"count": 0, "value": None, "bounds": [0.0, None]}
    assert found["error_rate"] == {"count": 0, "value": None, "bounds": [0.0, 1.0]}
