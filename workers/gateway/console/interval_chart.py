"""Charts of a guard over time: of each arm what was measured and what was plausible, and what the guard allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from snakepit_bridge.variables.codec import encode_json
from workers.gateway.console.interval_plot import find_limit, fit_axis

_ARMS = {"baseline": "--arm-0", "candidate": "--arm-1"}
# What a line at the end of the axis needs to be seen whole, as a part of the axis.
_ROOM = 0.03
_NOTHING: Mapping[str, Any] = {"value": None, "bounds": (None, None)}


def chart_guard(guard: str, looks: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the chart of a guard as JSON; None as long as there is nothing to compare over time.

    Args:
        guard: the guard, as text.
        looks: of a rollout's report, oldest first, as JSON values.
    """
    found = [
        (look["at"], look["stage"], report) for look in looks for report in look["guards"] if report["guard"] == guard
    ]
    if len(found) < 2 or not any(_measured(report) for _, _, report in found):
        return None
    spaced = _part_stages(found)
    unit, reports = found[-1][2]["unit"], [report for _, report in spaced]
    edges = _fit_range(found, unit)
    series, bands = list[dict[str, Any]](), list[tuple[int, int]]()
    for arm, colour in _ARMS.items():
        figures = [(report and report[arm]) or _NOTHING for report in reports]
        if all(figure["value"] is None for figure in figures):
            continue
        values, bounds = [figure["value"] for figure in figures], [figure["bounds"] for figure in figures]
        series.append({"label": arm, "colour": colour, "values": values, "bounds": bounds})
        for side, name in enumerate(("lowest", "highest")):
            values_of_bound = [_draw_bound(figure, side, edges) for figure in figures]
            series.append({"label": f"{arm}, {name}", "colour": colour, "values": values_of_bound, "bound": True})
        bands.append((len(series), len(series) - 1))
    limits = [find_limit(report) if report else None for report in reports]
    series.append({"label": "allowed", "colour": "--muted", "values": limits, "dashed": True})
    chart = {
        "times": [at for at, _ in spaced], "unit": unit, "range": edges, "series": series, "bands": bands,
    }  # fmt: skip
    return encode_json(chart).decode()


def _part_stages(
    found: Sequence[tuple[float, int, Mapping[str, Any]]],
) -> list[tuple[float, Mapping[str, Any] | None]]:
    """Return times and what the guard said, with a gap between two stages, since each is measured by itself."""
    spaced = list[tuple[float, Mapping[str, Any] | None]]()
    for number, (at, stage, report) in enumerate(found):
        if number and found[number - 1][1] != stage:
            spaced.append(((found[number - 1][0] + at) / 2, None))
        spaced.append((at, report))
    return spaced


def _draw_bound(figure: Mapping[str, Any], side: int, edges: tuple[float, float]) -> float | None:
    """Return a bound as it is shown: one that isn't known is at the edge of the chart."""
    bound = figure["bounds"][side]
    return edges[side] if bound is None and figure["value"] is not None else bound


def _fit_range(found: Sequence[tuple[float, int, Mapping[str, Any]]], unit: str) -> tuple[float, float]:
    """Return the ends of the vertical axis: they show what each stage ended with, not how wide it began."""
    ends = [
        report
        for number, (_, stage, report) in enumerate(found)
        if number == len(found) - 1 or found[number + 1][1] != stage
    ]
    measured = [pair for report in ends for pair in _measured(report)]
    measured = measured or [pair for _, _, report in found for pair in _measured(report)]
    limits = [limit for limit in map(find_limit, ends) if limit is not None]
    axis = fit_axis(measured, unit, max(limits) if limits else None)
    room = _ROOM * (axis.high - axis.low)
    return axis.low - room, axis.high + room


def _measured(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(arm, report[arm]) for arm in _ARMS if report[arm] is not None and report[arm]["value"] is not None]
