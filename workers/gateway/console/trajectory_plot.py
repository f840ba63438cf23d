"""The trajectory of an optimization: each variant that it tried with its score, and the best one so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.evaluations.plots import PlotAxis

_LEFT, _RIGHT, _TOP, BOTTOM = 48.0, 392.0, 10.0, 130.0


@dataclass(frozen=True, slots=True)
class TrialPoint:
    """A variant that was tried."""

    x: float
    y: float
    is_comparable: bool
    text: str


@dataclass(frozen=True, slots=True)
class TrajectoryPlot:
    """The variants in their order, and the steps of the best score.

    Attributes:
        points: the variants; one that was scored on few examples only isn't comparable, and counts for no step.
        steps: the corners of the line, as SVG has them.
        scores: positions and texts of the vertical scale, and ``numbers`` of the horizontal one.
    """

    points: Sequence[TrialPoint]
    steps: str
    scores: Sequence[tuple[float, str]]
    numbers: Sequence[tuple[float, str]]


def plot_trajectory(trials: Sequence[Mapping[str, Any]]) -> TrajectoryPlot:
    """Return the plot of trials.

    Args:
        trials: of an optimization's record, as JSON values; at least one.
    """
    values, most = [trial["score"] for trial in trials], max(trial["examples"] for trial in trials)
    across = PlotAxis(trials[0]["number"], max(trials[-1]["number"], trials[0]["number"] + 1), _LEFT, _RIGHT)
    spread = max(max(values) - min(values), 0.05)
    low, high = min(values) - spread / 10, max(values) + spread / 10
    if min(values) >= 0 and max(values) <= 1:
        low, high = max(0.0, low), min(1.0, high)
    upward = PlotAxis(low, high, BOTTOM, _TOP)
    points, corners, best = list[TrialPoint](), list[str](), None
    for trial in trials:
        x, score, is_comparable = across.place(trial["number"]), trial["score"], 2 * trial["examples"] > most
        text = f"{trial['number']}: {100 * score:.4g} % of {trial['examples']:,} examples"
        points.append(TrialPoint(x, upward.place(score), is_comparable, text))
        if is_comparable:
            corners += [] if best is None else [f"{x},{upward.place(best)}"]
            best = score if best is None else max(best, score)
            corners.append(f"{x},{upward.place(best)}")
    if best is not None:
        corners.append(f"{_RIGHT},{upward.place(best)}")
    scores = [(place, f"{100 * float(text):.3g} %") for place, text in upward.ticks(2)]
    numbers = [(across.place(trial["number"]), str(trial["number"])) for trial in (trials[0], trials[-1])]
    return TrajectoryPlot(points, " ".join(corners), scores, numbers)
