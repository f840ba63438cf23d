"""A guard's drawing: both intervals on one axis, in proportion, with what is allowed."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from snakepit_bridge.cli.rollout_view import Axis, allowed_value, draw_report, format_duration
from snakepit_bridge.releases.report import RolloutReport
from snakepit_bridge.rollouts.arm_counts import ArmCounts, ScoreSum
from snakepit_bridge.rollouts.confidence import Interval
from snakepit_bridge.rollouts.decision import PredictionsNeeded
from snakepit_bridge.rollouts.guard_reports import ArmFigure, GuardReport, evaluate
from snakepit_bridge.rollouts.policy import parse_policy
from snakepit_bridge.rollouts.records import RolloutRecord, RolloutState

RECORD = RolloutRecord("r", 3, RolloutState.RUNNING, 1, 100_000, 0, 1_000_000, "1.1", "1.2")


def arm(predictions: int, errors: int, *, latency: str = "200") -> ArmCounts:
    scores = {"helpful": ScoreSum(predictions // 2, predictions * 400_000)}
    return ArmCounts(
        predictions, {"InputError": errors}, {latency: predictions - errors}, {"90": predictions}, scores=scores
    )


def draw(baseline: ArmCounts, candidate: ArmCounts, *guards: dict[str, Any], columns: int = 110) -> list[str]:
    policy = parse_policy({"guards": list(guards), "stages": [{"share": 0.1}, {"share": 0.5}]})
    reports = tuple(evaluate(guard, baseline, candidate, policy.alpha) for guard in policy.guards)
    report = RolloutReport(
        "session:s", RECORD, policy, "", baseline, candidate, reports, PredictionsNeeded(0, 7), 5.0, "waits", (), ()
    )
    console = Console(width=columns, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(draw_report(report, columns))
    return captured.get().splitlines()


def bars(lines: list[str]) -> list[str]:
    return [line for line in lines if "●" in line and line.startswith(("  baseline", "  candidate"))]


GUARDS: list[dict[str, Any]] = [
    {"metric": "error_rate", "max_increase": 0.01},
    {"metric": "error_rate", "max": 0.2},
    {"metric": "latency", "quantile": 0.95, "max_ratio": 1.2},
    {"metric": "cost", "cap_usd": 0.02, "max_ratio": 1.2},
    {"metric": "score", "name": "helpful", "max_decrease": 0.05},
    {"metric": "score", "name": "helpful", "min": 0.5},
]


@pytest.mark.parametrize("columns", [80, 110, 200])
@pytest.mark.parametrize("guard", GUARDS, ids=str)
@pytest.mark.parametrize("counts", [(900, 9, 100, 2), (900, 9, 100, 90), (5, 0, 2, 0), (90_000, 1, 90_000, 1)], ids=str)
def test_every_bar_fits_its_axis(counts: tuple[int, int, int, int], guard: dict[str, Any], columns: int) -> None:
    lines = draw(arm(*counts[:2]), arm(*counts[2:], latency="230"), guard, columns=columns)
    found = bars(lines)
    assert [line.split()[0] for line in found] == (
        ["candidate"] if {"max", "min"} & guard.keys() else ["baseline", "candidate"]
    )
    assert all(len(line.rstrip()) <= columns for line in lines)
    width = max(20, min(48, columns - 56))
    for line in found:
        axis = line[12 : 12 + width]
        assert axis.count("●") == 1
        assert set(axis) <= set(" ├─●┼┤◄►┊")


def test_a_worse_candidate_is_drawn_to_the_right_and_beyond_what_is_allowed() -> None:
    trusted, tried = bars(draw(arm(9_000, 90), arm(1_000, 200), {"metric": "error_rate", "max_increase": 0.01}))
    assert tried.index("●") > trusted.index("●")
    assert tried.index("┊") < tried.index("├")
    assert "1 % (" in trusted
    assert "20 % (" in tried


def test_the_verdict_stands_beside_the_guard() -> None:
    [breached] = [line for line in draw(arm(900, 9), arm(900, 450), GUARDS[0]) if line.startswith("error_rate")]
    assert breached.rstrip() == "error_rate max_increase 0.01  breached"


def test_without_values_there_is_nothing_to_draw() -> None:
    nothing = ArmCounts(5, {}, {}, {})
    lines = draw(nothing, nothing, GUARDS[4])
    assert "score helpful max_decrease 0.05  no values yet" in [line.rstrip() for line in lines]
    assert bars(lines) == []


@pytest.mark.parametrize(
    ("guard", "unit", "allowed", "limit"),
    [
        ("error_rate max_increase 0.01", "share", 0.01, 0.06),
        ("latency p95 max_ratio 1.2", "s", 1.2, 0.06),
        ("score helpful max_decrease 0.05", "score", 0.02, 0.03),
    ],
)
def test_what_is_allowed_is_measured_from_the_baseline(guard: str, unit: str, allowed: float, limit: float) -> None:
    figure = ArmFigure(10, 0.05, Interval(0.0, 0.5))
    report = GuardReport(guard, unit, figure, figure, allowed, 0.0, Interval(-1, 1))
    assert allowed_value(report) == pytest.approx(limit)
    assert Axis.around(report, 30).limit == pytest.approx(limit)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (130, "2 min 10 s"), (3_600, "1 h"), (11_100, "3 h 5 min"),
     (187_200, "2 d 4 h")],
)  # fmt: skip
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
