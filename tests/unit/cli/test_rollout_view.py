"""A guard's drawing: both intervals on one axis, in proportion, with what is allowed."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from snakepit_bridge.cli.rollout_view import Axis, allowed_value, draw_report
from snakepit_bridge.releases.report import RolloutReport
from snakepit_bridge.rollouts.arm_counts import ArmCounts, ScoreSum
from snakepit_bridge.rollouts.confidence import Interval
from snakepit_bridge.rollouts.decision import PredictionsNeeded
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.guard_reports import ArmFigure, GuardReport, evaluate
from snakepit_bridge.rollouts.looks import RolloutLook
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


def test_a_rollout_that_was_rolled_back_keeps_its_verdict_and_is_drawn_over_time() -> None:
    guard = {"metric": "error_rate", "max_increase": 0.01}
    policy = parse_policy({"guards": [guard], "stages": [{"share": 0.1}]})
    reports = [evaluate(policy.guards[0], arm(900, 9), arm(90, errors), policy.alpha) for errors in (1, 20, 40)]
    looks = tuple(RolloutLook.of(1_764_000_000.0 + 60 * place, 1, [each]) for place, each in enumerate(reports))
    ended = RolloutEvent("rolled_back", RECORD, detail={"guards": [reports[-1].as_dict()]})
    report = RolloutReport(
        "session:s", RECORD, policy, "", arm(900, 9), arm(90, 1), (reports[0],), PredictionsNeeded(0, 0), 5.0, "", (),
        (ended,), looks,
    )  # fmt: skip
    console = Console(width=140, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(draw_report(report, 140))
    lines = captured.get().splitlines()
    assert "error_rate max_increase 0.01  breached" in [line.rstrip() for line in lines]
    assert report.as_dict()["guards"][0]["verdict"] == "breached"
    over_time = [line for line in lines if line.rstrip().endswith("2025-11-24 16:00:00 to 16:02:00 UTC")]
    assert [line.split()[0] for line in over_time] == ["baseline", "candidate"]
    assert len(set(over_time[0].split()[1])) == 1
    assert list(over_time[1].split()[1]) == sorted(over_time[1].split()[1])
    assert over_time[1].split()[1][0] < over_time[1].split()[1][-1]


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
