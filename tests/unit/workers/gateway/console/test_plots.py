"""The console's plots: positions within the drawing, whatever the figures, and the figures as text."""

from __future__ import annotations

from typing import Any

import pytest

from workers.gateway.console.interval_plot import WIDTH, plot_guard, plot_shares
from workers.gateway.console.phase_plot import plot_phases
from workers.gateway.console.score_histogram import count_scores
from workers.gateway.console.trajectory_plot import plot_trajectory


def figure(value: float | None, low: float | None, high: float | None) -> dict[str, Any]:
    return {"value": value, "bounds": [low, high], "count": 20}


def guard(baseline: dict[str, Any] | None, candidate: dict[str, Any], **changes: Any) -> dict[str, Any]:
    about = {"guard": "score helpful max_decrease 0.1", "unit": "score", "allowed": 0.1}
    return {**about, "baseline": baseline, "candidate": candidate, **changes}


def test_a_guard_is_drawn_with_both_arms_and_what_it_allows() -> None:
    plot = plot_guard(guard(figure(0.9, 0.8, 0.95), figure(0.5, 0.3, 0.7)))
    assert plot is not None
    baseline, candidate = plot.rows
    assert baseline.text == "0.9 (0.8 to 0.95) of 20"
    assert candidate.low < candidate.value < candidate.high < baseline.low < baseline.value < baseline.high
    assert plot.limit is not None
    assert candidate.high < plot.limit
    assert plot.limit == baseline.low


@pytest.mark.parametrize(
    ("kind", "unit", "allowed", "expected"),
    [
        ("latency p95 max_ratio 1.5", "s", 1.5, 0.6),
        ("error_rate max_increase 0.05", "share", 0.05, 0.45),
        ("score helpful max_decrease 0.1", "score", 0.1, 0.3),
    ],
)
def test_the_limit_follows_from_the_baseline(kind: str, unit: str, allowed: float, expected: float) -> None:
    about = {"guard": kind, "unit": unit, "allowed": allowed}
    plot = plot_guard(guard(figure(0.4, 0.4, 0.4), figure(expected, expected, expected), **about))
    assert plot is not None
    assert plot.limit == plot.rows[1].value


@pytest.mark.parametrize(
    "candidate",
    [figure(0.0, 0.0, 0.0), figure(1.0, None, None), figure(0.5, 0.0, 1.0), figure(1e-9, 0.0, 1e9)],
    ids=["zero", "unbounded", "wide", "immense"],
)
@pytest.mark.parametrize("unit", ["share", "s", "USD", "score"])
def test_every_position_is_within_the_drawing(candidate: dict[str, Any], unit: str) -> None:
    for baseline in (None, candidate, figure(None, 0.0, 1.0)):
        plot = plot_guard(guard(baseline, candidate, unit=unit))
        assert plot is not None
        positions = [at for row in plot.rows for at in (row.low, row.value, row.high)]
        positions += [] if plot.limit is None else [plot.limit]
        assert all(0 <= at <= WIDTH for at in positions)


def test_a_guard_without_values_is_not_drawn() -> None:
    assert plot_guard(guard(figure(None, 0.0, 1.0), figure(None, 0.0, 1.0))) is None


def test_mean_scores_are_drawn_from_0_to_100_percent_unless_they_leave_that() -> None:
    assert plot_shares([("Score", figure(0.35, 0.2, 0.5))]).edges == ("0 %", "100 %")
    assert plot_shares([("Score", figure(2.5, -0.5, 3.0))]).edges == ("-50 %", "300 %")


def test_phases_fill_the_drawing_and_each_can_be_seen() -> None:
    bars = plot_phases({"queued_ms": 900.0, "snapshot_ms": 0.0, "bind_ms": 0.0, "run_ms": 100.0})
    assert [bar.seconds for bar in bars] == [0.9, 0.0, 0.0, 0.1]
    assert all(bar.width >= 2 for bar in bars)
    assert abs(bars[-1].x + bars[-1].width - 400) < 1
    assert len(plot_phases({})) == 4


def test_scores_are_counted_in_bins_and_failures_apart() -> None:
    plot = count_scores([True, True, False, 0.55, None])
    assert plot is not None
    assert [bar.text for bar in plot.bars] == ["0 to 0.1: 1", "0.5 to 0.6: 1", "0.9 to 1: 2"]
    assert (plot.edges, plot.failed) == (("0", "1"), 1)
    assert count_scores([None]) is None
    beyond = count_scores([-2.0, 3.0])
    assert beyond is not None
    assert beyond.edges == ("-2", "3")


def test_a_trajectory_is_the_best_of_the_comparable_variants_so_far() -> None:
    trials = [
        {"number": number, "score": score, "examples": examples}
        for number, score, examples in ((1, 0.4, 20), (2, 0.9, 2), (3, 0.3, 20), (4, 0.6, 20))
    ]
    plot = plot_trajectory(trials)
    assert [point.is_comparable for point in plot.points] == [True, False, True, True]
    heights = [float(corner.split(",")[1]) for corner in plot.steps.split()]
    assert heights == sorted(heights, reverse=True)  # downwards is more
    assert heights[0] == plot.points[0].y
    assert heights[-1] == plot.points[3].y
    assert [text for _, text in plot.numbers] == ["1", "4"]
    assert len(plot_trajectory(trials[:1]).points) == 1
