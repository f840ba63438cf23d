"""The console's plots: positions within the drawing, whatever the figures, and the figures as text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workers.gateway.console.interval_chart import chart_guard
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


def look(at: float, stage: int, *guards: dict[str, Any]) -> dict[str, Any]:
    return {"at": at, "stage": stage, "guards": list(guards)}


def test_a_guard_is_charted_over_time_with_a_band_for_each_arm_and_a_gap_between_stages() -> None:
    wide, narrow = figure(0.9, 0.0, None), figure(0.8, 0.7, 0.9)
    other = guard(narrow, narrow, guard="error_rate max 0.1", unit="share")
    looks = [
        look(10, 1, other, guard(wide, wide)),
        look(11, 1, guard(narrow, narrow)),
        look(13, 2, guard(narrow, wide)),
    ]
    text = chart_guard("score helpful max_decrease 0.1", looks)
    assert text is not None
    chart = json.loads(text)
    assert (chart["times"], chart["unit"], chart["bands"]) == ([10, 11, 12, 13], "score", [[3, 2], [6, 5]])
    lines = {line["label"]: line["values"] for line in chart["series"]}
    low, high = chart["range"]
    assert lines["baseline"] == [0.9, 0.8, None, 0.8]
    assert lines["candidate, highest"] == [high, 0.9, None, high], "what isn't bounded is drawn to the edge"
    assert [limit and round(limit, 9) for limit in lines["allowed"]] == [0.8, 0.7, None, 0.7]
    assert low < 0.7 < 0.9 < high
    assert all(len(values) == 4 for values in lines.values())


def test_the_axis_of_a_chart_shows_the_end_and_not_the_wide_bounds_of_the_beginning() -> None:
    looks = [look(at, 1, guard(figure(0.8, 0.8 - 0.8 / at, 1.0), figure(0.8, 0.0, 1.0))) for at in range(1, 100)]
    looks.append(look(100, 1, guard(figure(0.8, 0.79, 0.81), figure(0.8, 0.78, 0.82))))
    text = chart_guard("score helpful max_decrease 0.1", looks)
    assert text is not None
    low, high = json.loads(text)["range"]
    assert 0.6 < low < 0.78
    assert 0.82 < high < 0.95


def test_a_chart_takes_two_looks_with_values_and_leaves_out_an_arm_that_has_none() -> None:
    alone, nothing = guard(None, figure(0.9, 0.8, 0.95)), guard(figure(None, 0, 1), figure(None, 0, 1))
    name = alone["guard"]
    assert chart_guard(name, [look(1, 1, alone)]) is None
    assert chart_guard(name, [look(1, 1, nothing), look(2, 1, nothing)]) is None
    assert chart_guard("another", [look(1, 1, alone), look(2, 1, alone)]) is None
    text = chart_guard(name, [look(1, 1, alone), look(2, 1, alone)])
    assert text is not None
    assert [line["label"] for line in json.loads(text)["series"]] == [
        "candidate", "candidate, lowest", "candidate, highest", "allowed",
    ]  # fmt: skip
