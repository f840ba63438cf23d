"""An experiment's drawing: every arm has its column and its bar, at every width."""

from __future__ import annotations

import pytest
from rich.console import Console

from snakepit_bridge.cli.experiment_view import describe_experiment_event, describe_part, draw_experiment
from snakepit_bridge.releases.experiment_report import ArmReport, ExperimentReport
from snakepit_bridge.rollouts.arm_counts import ArmCounts, ScoreSum
from snakepit_bridge.rollouts.arm_figures import ArmFigures
from snakepit_bridge.rollouts.experiment_changes import ExperimentEvent
from snakepit_bridge.rollouts.experiments import Experiment


def experiment(arms: int, **changed: object) -> Experiment:
    weights = [1_000_000 // arms / 1e6] * arms
    weights[-1] = round(1 - sum(weights[:-1]), 6)
    described = [
        {"name": f"arm{number}", "weight": weight, "revision": f"1795920455784516.{number}"}
        for number, weight in enumerate(weights, 1)
    ]
    return Experiment.model_validate({"id": "e", "name": "tone", "arms": described} | changed)


def draw(tried: Experiment, *counts: ArmCounts, columns: int = 110) -> list[str]:
    arms = tuple(
        ArmReport(arm, each, ArmFigures.measure(each, 0.01)) for arm, each in zip(tried.arms, counts, strict=True)
    )
    console = Console(width=columns, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(draw_experiment(ExperimentReport("session:s", tried, arms, ()), columns))
    return captured.get().splitlines()


def rows(lines: list[str], metric: str, arms: int) -> list[str]:
    """Return the lines of the arms below a metric's title, which may take several lines itself."""
    title = next(number for number, line in enumerate(lines) if line.startswith(f"{metric}  "))
    return [line for line in lines[title + 1 :] if line.startswith("  arm")][:arms]


def counted(number: int) -> ArmCounts:
    scores = {"helpful": ScoreSum(10 + number, number * 400_000)}
    return ArmCounts(100 * number, {"LMError": number}, {str(150 + number): 90}, scores=scores)


@pytest.mark.parametrize("columns", [80, 110, 200])
@pytest.mark.parametrize("arms", [2, 3, 20])
def test_each_arm_has_a_column_and_a_bar_for_each_metric(arms: int, columns: int) -> None:
    lines = draw(experiment(arms), *(counted(number) for number in range(1, arms + 1)), columns=columns)
    assert max(map(len, lines)) <= columns
    for metric in ("error rate", "latency p95", "score helpful"):
        below = rows(lines, metric, arms)
        assert [line.split()[0] for line in below] == [f"arm{number}" for number in range(1, arms + 1)]
        assert all(line.count("●") == 1 for line in below)
    tokens = [word for line in lines if line.startswith(" token") for word in line.split()[1:]]
    assert tokens == [f"1795920455784516.{number}" for number in range(1, arms + 1)], "none is folded"


def test_a_larger_value_is_further_to_the_right() -> None:
    lines = draw(experiment(2), counted(1), ArmCounts(1_000, {"LMError": 300}))
    first, second = rows(lines, "error rate", 2)
    assert first.index("●") < second.index("●")


def test_an_arm_without_values_says_so() -> None:
    lines = draw(experiment(2), counted(1), ArmCounts())
    assert rows(lines, "error rate", 2)[1].split() == ["arm2", "no", "values"]
    assert "error rate  open: values of two arms are needed" in lines
    assert not any("no values" in line or "●" in line for line in draw(experiment(2), ArmCounts(), ArmCounts()))


def test_which_requests_take_part() -> None:
    segment = {"properties": {"plan": {"const": "pro"}}}
    assert describe_part(experiment(2)) == "100 %"
    assert describe_part(experiment(2, from_share=0.1, to_share=0.3)) == "20 % from 10 % on"
    assert describe_part(experiment(2, segment=segment)) == '100 %, if {"properties": {"plan": {"const": "pro"}}}'


def test_an_event_is_one_line_of_text() -> None:
    decided = experiment(2, state="decided", winner="arm2")
    shown = describe_experiment_event(
        ExperimentEvent("decided", decided, "ann", "two\nlines \x1b[31m", 1_790_000_000.0)
    )
    assert shown == "2026-09-21T14:13:20+00:00 tone decided for arm2, by ann: two lines \\x1b[31m"
