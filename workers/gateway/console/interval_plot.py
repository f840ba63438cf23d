"""Plots of intervals, as the positions that a template draws: what is measured of each arm, and what is plausible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.evaluations.plots import PlotAxis
from snakepit_bridge.rollouts.units import FORMATS

WIDTH = 400.0
_MARGIN, _ROW, _TOP = 6.0, 22.0, 14.0
_COLOURS = 4
# What rounding leaves between a bound and the edge that is at it.
_NOTHING = 1e-9
# The least that an axis shows, so that equal values aren't at its two ends.
_LEAST_SPREADS = {"share": 0.01, "s": 0.05, "USD": 0.0001, "score": 0.05}


@dataclass(frozen=True, slots=True)
class PlotRow:
    """One interval: positions of its ends and of the measured value, and the same as text.

    Attributes:
        name: of the arm, or of what else was measured.
        is_cut: whether the interval goes on below the axis, and above it.
        colour: its number among the colours of arms.
    """

    name: str
    colour: int
    y: float
    low: float
    value: float
    high: float
    text: str
    is_cut: tuple[bool, bool]


@dataclass(frozen=True, slots=True)
class IntervalPlot:
    """Intervals on one axis.

    Attributes:
        rows: the intervals.
        limit: the position of what is allowed, or of zero; None if there is none.
        edges: the values at the ends of the axis, as text.
        height: of the plot.
    """

    rows: Sequence[PlotRow]
    limit: float | None
    edges: tuple[str, str]
    height: float


def plot_guard(guard: Mapping[str, Any]) -> IntervalPlot | None:
    """Return the plot of what a guard says of the arms; None without values.

    Args:
        guard: of a rollout's report, as JSON values.
    """
    arms = [(name, guard[name]) for name in ("baseline", "candidate") if guard[name] is not None]
    measured = [(name, figure) for name, figure in arms if figure["value"] is not None]
    if not measured:
        return None
    limit = find_limit(guard)
    return _plot(measured, guard["unit"], fit_axis(measured, guard["unit"], limit), limit, ("baseline", "candidate"))


def plot_shares(figures: Sequence[tuple[str, Mapping[str, Any]]]) -> IntervalPlot:
    """Return the plot of mean scores as percentages, from 0 to 100 % if they are among these.

    Args:
        figures: names, and ``value``, ``count`` and ``bounds``.
    """
    bounds = [bound for _, figure in figures for bound in (*figure["bounds"], figure["value"])]
    axis = PlotAxis(min(0.0, *bounds), max(1.0, *bounds), _MARGIN, WIDTH - _MARGIN)
    return _plot(figures, "share", axis, None, [name for name, _ in figures])


def plot_arms(figures: Mapping[str, Mapping[str, Any]], unit: str, arms: Sequence[str]) -> IntervalPlot | None:
    """Return the plot of a metric of an experiment's arms; None without values.

    Args:
        figures: of the metric, by arm: ``value``, ``count`` and ``bounds``.
        unit: of the values.
        arms: all arms, in the order in which they are coloured.
    """
    measured = [(arm, figures[arm]) for arm in arms if arm in figures and figures[arm]["value"] is not None]
    if not measured:
        return None
    return _plot(measured, unit, fit_axis(measured, unit, None), None, arms)


def _plot(
    figures: Sequence[tuple[str, Mapping[str, Any]]],
    unit: str,
    axis: PlotAxis,
    limit: float | None,
    coloured: Sequence[str],
) -> IntervalPlot:
    show = FORMATS[unit]

    def place(value: float) -> float:
        return axis.place(min(axis.high, max(axis.low, value)))

    def describe(figure: Mapping[str, Any]) -> str:
        low, high = ("∞" if bound is None else show(bound) for bound in figure["bounds"])
        return f"{show(figure['value'])} ({low} to {high}) of {figure['count']:,}"

    rows = [
        PlotRow(
            name,
            coloured.index(name) % _COLOURS,
            _TOP + _ROW * number,
            place(axis.low if figure["bounds"][0] is None else figure["bounds"][0]),
            place(figure["value"]),
            place(axis.high if figure["bounds"][1] is None else figure["bounds"][1]),
            describe(figure),
            (_exceeds(figure["bounds"][0], axis.low, -1), _exceeds(figure["bounds"][1], axis.high, 1)),
        )
        for number, (name, figure) in enumerate(figures)
    ]
    edges = (show(axis.low), show(axis.high))
    return IntervalPlot(rows, None if limit is None else place(limit), edges, _TOP + _ROW * len(rows))


def _exceeds(bound: float | None, edge: float, side: int) -> bool:
    """Check whether a bound is beyond an edge of the axis; one that isn't known is."""
    return bound is None or side * (bound - edge) > _NOTHING


def fit_axis(figures: Sequence[tuple[str, Mapping[str, Any]]], unit: str, limit: float | None) -> PlotAxis:
    """Return the axis that shows what matters: the values, the limit, and as much of the bounds as fits.

    Args:
        figures: names, and ``value`` and ``bounds``; at least one has a value.
        unit: of the values.
        limit: what is allowed; None if there is no limit.
    """
    points = [figure["value"] for _, figure in figures] + ([] if limit is None else [limit])
    bounds = [bound for _, figure in figures for bound in figure["bounds"] if bound is not None]
    least = _LEAST_SPREADS[unit]
    spread = max(max(points) - min(points), max(map(abs, points)) / 4, least)
    low = max(min([*bounds, *points]), min(points) - 2 * spread)
    high = max(max(points) + least / 2, min(max([*bounds, *points]), max(points) + 2 * spread))
    if unit in ("share", "score"):
        low, high = max(0.0, low), min(1.0, high)
    return PlotAxis(low, high, _MARGIN, WIDTH - _MARGIN)


def find_limit(guard: Mapping[str, Any]) -> float | None:
    """Return the candidate's value up to which a guard allows it, as measured; None if there is none yet.

    Args:
        guard: of a rollout's report, as JSON values.
    """
    baseline, allowed = guard["baseline"], guard["allowed"]
    if baseline is None:
        return allowed
    if baseline["value"] is None:
        return None
    if "max_ratio" in guard["guard"]:
        return baseline["value"] * allowed
    return baseline["value"] + (-allowed if guard["unit"] == "score" else allowed)
