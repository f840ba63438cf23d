"""How an experiment looks on a terminal: its arms side by side, and the interval of each for every metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from snakepit_bridge.cli.output import dump_json, to_one_line
from snakepit_bridge.cli.rollout_view import Axis
from snakepit_bridge.cli.staged import format_share, name_arm
from snakepit_bridge.releases.experiment_report import ArmReport, ExperimentReport
from snakepit_bridge.rollouts.arm_comparisons import ArmComparison
from snakepit_bridge.rollouts.experiment_changes import ExperimentEvent
from snakepit_bridge.rollouts.experiments import Experiment, ExperimentState
from snakepit_bridge.rollouts.guard_reports import ArmFigure
from snakepit_bridge.rollouts.units import format_percent, format_seconds, format_usd

_STATES = {ExperimentState.RUNNING: "cyan", ExperimentState.DECIDED: "green", ExperimentState.STOPPED: "yellow"}
# Columns of an axis, of what stands beside it, of the names of rows, and of an arm's in the table.
_MAX_AXIS, _MIN_AXIS, _BESIDE, _NAMES, _ARM = 48, 20, 56, 22, 21
# Arms are named at the side of an axis in so many columns.
_NAME = 16
_EVENTS_SHOWN = 5
_PICO_PER_USD = 10**12

Show = Callable[[float], str]


def draw_experiment(report: ExperimentReport, columns: int = 120) -> RenderableType:
    """Return an experiment as people read it.

    Args:
        report: the experiment.
        columns: of the terminal.
    """
    width = max(_MIN_AXIS, min(_MAX_AXIS, columns - _BESIDE))
    beside = max(1, (columns - _NAMES) // _ARM)
    parts: list[RenderableType] = [_draw_head(report)]
    parts += [_draw_arms(report, report.arms[first : first + beside]) for first in range(0, len(report.arms), beside)]
    longest = max(len(each.arm.name) for each in report.arms)
    metrics = [_draw_metric(comparison, longest, width) for comparison in report.comparisons]
    if metrics:
        parts += [
            *metrics,
            Text("  ├──●──┤ is what is measured and plausible, of all arms and at all looks", "dim"),
            Text(),
        ]
    parts += [Text(describe_experiment_event(event)) for event in report.events[-_EVENTS_SHOWN:]]
    return Group(*parts)


def describe_experiment_event(event: ExperimentEvent) -> str:
    """Return an event as one line."""
    at = datetime.fromtimestamp(event.at, UTC).isoformat(timespec="seconds")
    arm = f" for {event.experiment.winner}" if event.experiment.winner else ""
    by = f"by {event.author or 'nobody named'}: {event.reason or 'no reason given'}"
    return to_one_line(f"{at} {event.experiment.name} {event.kind}{arm}, {by}")


def describe_part(experiment: Experiment) -> str:
    """Return which requests take part in an experiment."""
    share = format_share(experiment.to_share - experiment.from_share)
    begin = f" from {format_share(experiment.from_share)} on" if experiment.from_share else ""
    segment = f", if {dump_json(experiment.segment)}" if experiment.segment is not None else ""
    return f"{share}{begin}{segment}"


def _draw_head(report: ExperimentReport) -> Text:
    experiment = report.experiment
    state = f"{experiment.state.value} for {experiment.winner}" if experiment.winner else experiment.state.value
    return Text.assemble(
        (report.target, "bold"), "  ", (experiment.name, "bold"), "  ", (state, f"bold {_STATES[experiment.state]}"),
        f"  requests: {to_one_line(describe_part(experiment))}" if experiment.state == "running" else "",
    )  # fmt: skip


def _draw_arms(report: ExperimentReport, arms: Sequence[ArmReport]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for each in arms:
        style = _STATES[ExperimentState.DECIDED] if each.arm.name == report.experiment.winner else ""
        table.add_column(Text(each.arm.name, style), justify="right", overflow="fold")

    def add(name: str, show: Callable[[ArmReport], str]) -> None:
        if any(show(each) != "-" for each in report.arms):
            table.add_row(name, *(show(each) for each in arms))

    add("token" if report.target.startswith("session:") else "program", lambda each: name_arm(each.arm.revision))
    add("weight", lambda each: format_share(each.arm.weight))
    table.add_row("predictions", *(f"{each.counts.predictions:,}" for each in arms))
    add("errors", _count_errors)
    for kind in sorted({kind for each in report.arms for kind in each.counts.errors}):
        table.add_row(f"  {kind}", *(f"{each.counts.errors.get(kind, 0):,}" for each in arms))
    add("latency p50", lambda each: _value(each.figures.latency_p50, format_seconds))
    add("latency p95", lambda each: _value(each.figures.latency_p95, format_seconds))
    add("cost per prediction", _cost)
    for name in _score_names(report):
        add(f"score {name}", lambda each, name=name: _score(each.figures.scores.get(name)))
    return table


def _draw_metric(comparison: ArmComparison, longest: int, width: int) -> RenderableType:
    """Draw the intervals of all arms on one axis."""
    figures, unit = comparison.figures, comparison.unit
    measured = [figure for figure in figures.values() if figure.value is not None]
    values = [figure.value for figure in measured if figure.value is not None]
    spread = max(max(values) - min(values), max(values) / 4, 0.01)
    low = max(0.0, min([*(figure.bounds.low for figure in measured), *values]), min(values) - 2 * spread)
    high = min(max(figure.bounds.high for figure in measured), max(values) + 2 * spread)
    axis, table = Axis(low, max(high, low + 0.01, *values), None, width), Table.grid(padding=(0, 1))
    for arm, figure in figures.items():
        table.add_row(f"  {_shorten(arm, longest)}", axis.draw(figure, "cyan"), figure.describe(unit))
    table.add_row("", Text(axis.edges(unit), "dim"), "")
    title = Text.assemble(
        (comparison.metric, "bold"), "  ", (comparison.outlook, "green" if comparison.is_apart else "yellow")
    )
    return Group(title, table)


def _shorten(name: str, longest: int) -> str:
    """Return an arm's name in the width that all names have at the side of an axis."""
    return (name if len(name) <= _NAME else f"{name[: _NAME - 1]}…").ljust(min(longest, _NAME))


def _score_names(report: ExperimentReport) -> list[str]:
    return sorted({name for each in report.arms for name in each.figures.scores})


def _count_errors(each: ArmReport) -> str:
    rate = each.figures.error_rate
    return "-" if rate.value is None else f"{each.counts.failures.total:,.0f} ({format_percent(rate.value)})"


def _value(figure: ArmFigure, show: Show) -> str:
    return "-" if figure.value is None else show(figure.value)


def _cost(each: ArmReport) -> str:
    counts = each.counts
    spent = counts.cost_pico / _PICO_PER_USD
    return format_usd(spent / counts.predictions) if counts.predictions and spent else "-"


def _score(figure: ArmFigure | None) -> str:
    return "-" if figure is None or figure.value is None else f"{figure.value:.3g} of {figure.count:,}"
