"""How a rollout looks on a terminal: both arms side by side, and an interval of each arm for every guard."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from snakepit_bridge.cli.output import to_one_line
from snakepit_bridge.cli.staged import describe_policy, format_share, name_arm
from snakepit_bridge.releases.report import RolloutReport
from snakepit_bridge.rollouts.arm_counts import ArmCounts
from snakepit_bridge.rollouts.assignment import MILLION
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.guard_reports import ArmFigure, GuardReport
from snakepit_bridge.rollouts.guards import GuardVerdict
from snakepit_bridge.rollouts.looks import RolloutLook, thin
from snakepit_bridge.rollouts.records import RolloutState
from snakepit_bridge.rollouts.sketch import quantile
from snakepit_bridge.rollouts.units import FORMATS, format_duration, format_percent, format_seconds, format_usd

_STATES = {
    RolloutState.NEW: "cyan",
    RolloutState.RUNNING: "cyan",
    RolloutState.PAUSED: "yellow",
    RolloutState.PROMOTED: "green",
    RolloutState.ROLLED_BACK: "red",
}
_VERDICTS = {GuardVerdict.HEALTHY: "green", GuardVerdict.OPEN: "yellow", GuardVerdict.BREACHED: "red"}
_BASELINE = "blue"
# Columns of an axis, and of what stands beside it.
_MAX_AXIS, _MIN_AXIS, _BESIDE = 48, 20, 56
_HEIGHTS = "▁▂▃▄▅▆▇█"
_EVENTS_SHOWN = 5
# The least that an axis shows, so that equal values aren't at its two ends.
_LEAST_SPREADS = {"share": 0.01, "s": 0.05, "USD": 0.0001, "score": 0.05}
_PICO_PER_USD = 10**12


def draw_report(report: RolloutReport, columns: int = 120) -> RenderableType:
    """Return a rollout as people read it.

    Args:
        report: the rollout.
        columns: of the terminal.
    """
    width = max(_MIN_AXIS, min(_MAX_AXIS, columns - _BESIDE))
    guards = report.guards if report.baseline.predictions or report.candidate.predictions else ()
    parts: list[RenderableType] = [_draw_head(report)]
    if report.policy is not None:
        parts.append(Text(f"policy: {describe_policy(report.policy)}", "dim"))
    parts.append(_draw_arms(report))
    parts += [_draw_guard(report, guard, width) for guard in guards]
    if guards:
        parts += [
            Text("  ┊ is what a guard allows, ├──●──┤ what is measured and plausible at all looks", "dim"),
            *(
                [Text("  ▁▄█ is what was measured over time, between the ends of the axis", "dim")]
                if report.looks
                else []
            ),
            Text(),
        ]
    parts += [Text(line) for line in _list_notes(report)]
    return Group(*parts)


def _draw_head(report: RolloutReport) -> Text:
    record, stages = report.record, report.policy.stages if report.policy else ()
    head = Text.assemble(
        (report.target, "bold"), "  ",
        ("superseded", "bold yellow") if report.is_superseded
        else (record.state.value.replace("_", " "), f"bold {_STATES[record.state]}"),
    )  # fmt: skip
    if record.stage:
        head.append(f"  stage {record.stage}" + (f" of {len(stages)}" if stages else ""))
    if report.is_open:
        head.append(f"  {format_share(record.share)} get the candidate")
    if report.is_open and record.stage:
        least_s = stages[min(record.stage, len(stages)) - 1].min_s if stages else 0.0
        head.append(f"  for {format_duration(report.ran_s)} of at least {format_duration(least_s)}")
    return head


def _draw_arms(report: RolloutReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column(Text("baseline", _BASELINE), justify="right")
    table.add_column("candidate", justify="right")
    what = "token" if report.target.startswith("session:") else "program"
    table.add_row(what, name_arm(report.record.baseline), name_arm(report.record.candidate))
    arms = (report.baseline, report.candidate)

    def add(name: str, show: Callable[[ArmCounts], str]) -> None:
        cells = [show(arm) for arm in arms]
        if any(cell != "-" for cell in cells):
            table.add_row(name, *cells)

    table.add_row(
        "predictions in this stage" if report.is_open else "predictions", *(f"{arm.predictions:,}" for arm in arms)
    )
    needed = report.needed
    if needed.baseline or needed.candidate:
        table.add_row(
            "  still needed", *(f"{count:,}" if count else "-" for count in (needed.baseline, needed.candidate))
        )
    table.add_row("errors", *(_errors(arm) for arm in arms))
    for kind in sorted({kind for arm in arms for kind in arm.errors}):
        table.add_row(f"  {kind}", *(f"{arm.errors.get(kind, 0):,}" for arm in arms))
    for level in (0.5, 0.95):
        add(f"latency p{100 * level:g}", lambda arm, level=level: _latency(arm, level))
    add("cost per prediction", _cost)
    for name in sorted({name for arm in arms for name in arm.scores}):
        add(f"score {name}", lambda arm, name=name: _score(arm, name))
    return table


def _errors(arm: ArmCounts) -> str:
    failures = arm.failures
    return f"{failures.total:,.0f} ({format_percent(failures.mean)})" if failures.count else "-"


def _latency(arm: ArmCounts, level: float) -> str:
    found = quantile(arm.latency, level)
    return "-" if found is None else format_seconds(found / 1_000)


def _cost(arm: ArmCounts) -> str:
    return format_usd(arm.cost_pico / _PICO_PER_USD / arm.predictions) if arm.predictions and arm.cost_pico else "-"


def _score(arm: ArmCounts, name: str) -> str:
    found = arm.scores.get(name)
    return f"{found.millionths / MILLION / found.count:.3g} of {found.count:,}" if found and found.count else "-"


def _draw_guard(rollout: RolloutReport, report: GuardReport, width: int) -> RenderableType:
    """Draw both arms' intervals of a guard on one axis; only its name as long as there is nothing to draw."""
    verdict = rollout.verdict_of(report)
    colour = _VERDICTS[verdict]
    title = Text.assemble((report.guard, "bold"), "  ")
    arms = [("baseline", report.baseline, _BASELINE), ("candidate", report.candidate, colour)]
    if all(figure is None or figure.value is None for _, figure, _ in arms):
        return title.append("no values yet", "dim")
    axis, table = Axis.around(report, width), Table.grid(padding=(0, 1))
    for arm, figure, style in arms:
        if figure is not None:
            table.add_row(Text(f"  {arm}".ljust(11), style), axis.draw(figure, style), figure.describe(report.unit))
    table.add_row("", Text(axis.edges(report.unit), "dim"), "")
    for arm, line in draw_looks(rollout.looks or (), report.guard, axis):
        style = _BASELINE if arm == "baseline" else colour
        table.add_row(
            Text(f"  {arm}".ljust(11), style), Text(line, style), Text(_name_span(rollout.looks or ()), "dim")
        )
    return Group(title.append(verdict.value, colour), table)


def draw_looks(looks: Sequence[RolloutLook], guard: str, axis: Axis) -> list[tuple[str, str]]:
    """Return a line for each arm that says what a guard measured of it over time; none without two such looks.

    Args:
        looks: at the rollout, oldest first.
        guard: the guard, as text.
        axis: of its values, with the width of the lines.
    """
    found = [each for look in looks for each in look.guards if each["guard"] == guard]
    lines = list[tuple[str, str]]()
    for arm in ("baseline", "candidate"):
        values = [each[arm] and each[arm]["value"] for each in found]
        if sum(value is not None for value in values) > 1:
            lines.append((arm, "".join(map(axis.draw_height, thin(values, axis.width)))))
    return lines


def _name_span(looks: Sequence[RolloutLook]) -> str:
    """Return from when to when looks are, of each day its time alone where they are of one."""
    first, last = (datetime.fromtimestamp(look.at, UTC) for look in (looks[0], looks[-1]))
    end = last.strftime("%H:%M:%S" if first.date() == last.date() else "%Y-%m-%d %H:%M:%S")
    return f"{first:%Y-%m-%d %H:%M:%S} to {end} UTC"


def allowed_value(report: GuardReport) -> float | None:
    """Return the candidate's value up to which a guard allows it, as measured; None if there is none yet."""
    if report.candidate.value is None or report.measured_harm is None:
        return None
    if report.baseline is None:
        return report.allowed
    return None if report.baseline.value is None else _shift(report, report.baseline.value)


def _shift(report: GuardReport, baseline: float) -> float:
    if "max_ratio" in report.guard:
        return baseline * report.allowed
    return baseline - report.allowed if report.unit == "score" else baseline + report.allowed


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values, as so many columns.

    Attributes:
        low, high: its ends.
        limit: what a guard allows at most, or for a score at least.
        width: how many columns.
    """

    low: float
    high: float
    limit: float | None
    width: int

    @classmethod
    def around(cls, report: GuardReport, width: int) -> Axis:
        """Return the axis that shows what matters: the values, the limit, and as much of the bounds as fits."""
        figures = [figure for figure in (report.baseline, report.candidate) if figure is not None]
        limit = allowed_value(report)
        points = [figure.value for figure in figures if figure.value is not None]
        points += [] if limit is None else [limit]
        lows = [figure.bounds.low for figure in figures if figure.value is not None]
        highs = [figure.bounds.high for figure in figures if figure.value is not None]
        least = _LEAST_SPREADS[report.unit]
        spread = max(max(points) - min(points), max(points) / 4, least)
        low = max(0.0, min([*lows, *points]), min(points) - 2 * spread)
        high = max(points[0] + least, min(max([*highs, *points]), max(points) + 2 * spread), *points)
        if report.unit in ("share", "score") and high > 1:  # neither can be more
            low, high = max(0.0, min(low, 1 - least)), 1.0
        return cls(low, high, limit, width)

    def edges(self, unit: str) -> str:
        """Return the values at both ends, as far apart as the axis is long."""
        first, last = (FORMATS[unit](value) for value in (self.low, self.high))
        return first + last.rjust(self.width - len(first))

    def draw(self, figure: ArmFigure, style: str) -> Text:
        """Return the interval of an arm, its measured value, and the limit."""
        cells = [" "] * self.width
        if figure.value is not None:
            first, last = self._column(figure.bounds.low), self._column(figure.bounds.high)
            cells[first : last + 1] = "─" * (last + 1 - first)
            cells[first] = "├" if figure.bounds.low >= self.low else "◄"
            cells[last] = "┤" if figure.bounds.high <= self.high else "►"
            cells[self._column(figure.value)] = "●"
        line = Text("".join(cells), style)
        if self.limit is not None:
            column = self._column(self.limit)
            mark = "┊" if cells[column] == " " else "┼" if cells[column] == "─" else cells[column]
            line = Text.assemble(line[:column], (mark, "bold red"), line[column + 1 :])
        return line

    def draw_height(self, value: float | None) -> str:
        """Return a bar as high as a value is between the ends; a space for None."""
        if value is None:
            return " "
        return _HEIGHTS[round(self._place(value) * (len(_HEIGHTS) - 1))]

    def _place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if math.isfinite(value) else 1.0
        return min(1.0, max(0.0, share))

    def _column(self, value: float) -> int:
        return round(self._place(value) * (self.width - 1))


def _list_notes(report: RolloutReport) -> list[str]:
    notes = [f"refused by {to_one_line(refusal)}" for refusal in report.refusals]
    end = "superseded: everybody gets what was published since" if report.is_superseded else ""
    outlook = "; ".join(filter(None, (end, report.outlook)))
    notes.append(f"{'now' if report.is_open else 'ended'}: {to_one_line(outlook)}")
    if (earlier := len(report.events) - _EVENTS_SHOWN) > 0:
        notes.append(
            f"… {earlier} earlier event{'s' if earlier > 1 else ''}: dspex-fleet rollout watch {report.target}"
        )
    return [*notes, *(f"{describe_event(event)}" for event in report.events[-_EVENTS_SHOWN:])]


def describe_event(event: RolloutEvent) -> str:
    """Return an event as one line."""
    at = datetime.fromtimestamp(event.at, UTC).isoformat(timespec="seconds")
    stage = f" stage {event.record.stage} at {format_share(event.record.share)}" if event.record.stage else ""
    kind = event.kind.replace("_", " ") if event.kind != "stage" else "began"
    return to_one_line(f"{at} {kind}{stage}, by {event.author or 'nobody named'}: {event.reason or 'no reason given'}")
