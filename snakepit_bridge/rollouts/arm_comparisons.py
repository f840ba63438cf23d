"""What an experiment's figures say of its arms, metric by metric: which is best, or what that still needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from snakepit_bridge.rollouts.arm_figures import ArmFigures
from snakepit_bridge.rollouts.guard_reports import ArmFigure

# Beyond as many values an estimate says nothing but that the arms are alike.
_MAX_NEEDED = 10_000_000


@dataclass(frozen=True, slots=True)
class ArmComparison:
    """One metric of all arms.

    Attributes:
        metric: its name, such as ``error rate`` or ``score helpful``.
        unit: of its values: ``share``, ``s`` or ``score``.
        figures: what was measured, by arm.
        best: the arm that is measured to be the best; empty as long as fewer than two arms have values.
        is_apart: whether no other arm's interval overlaps that of the best one.
        needed: estimates, by arm, of the further values after which none does if the differences stay as measured; None
            where they can't be estimated, or are out of reach.
    """

    metric: str
    unit: str
    figures: Mapping[str, ArmFigure] = field(repr=False)
    best: str
    is_apart: bool
    needed: Mapping[str, int] | None

    @property
    def outlook(self) -> str:
        """What is known, in words."""
        if self.is_apart:
            return f"{self.best} is best"
        if not self.best:
            return "open: values of two arms are needed"
        if self.needed is None:
            is_bounded = all(math.isfinite(figure.bounds.high) for figure in self.figures.values())
            return f"open: {'as measured, the arms are alike' if is_bounded else 'more values are needed to bound it'}"
        counts = [f"{count:,} more of {arm}" for arm, count in self.needed.items() if count]
        return f"open: if the difference stays, about {' and '.join(counts)} would tell"

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "metric": self.metric,
            "unit": self.unit,
            "best": self.best,
            "is_apart": self.is_apart,
            "needed": None if self.needed is None else dict(self.needed),
            "outlook": self.outlook,
            "figures": {arm: figure.as_dict() for arm, figure in self.figures.items()},
        }


def compare_arms(arms: Mapping[str, ArmFigures]) -> tuple[ArmComparison, ...]:
    """Return the comparison of each metric of which an arm has values.

    Args:
        arms: what was measured, by arm.
    """
    metrics: list[tuple[str, dict[str, ArmFigure], str]] = [
        ("error rate", {arm: figures.error_rate for arm, figures in arms.items()}, "share"),
        ("latency p95", {arm: figures.latency_p95 for arm, figures in arms.items()}, "s"),
    ]
    for score in sorted({name for figures in arms.values() for name in figures.scores}):
        found = {arm: figures.scores[score] for arm, figures in arms.items() if score in figures.scores}
        metrics.append((f"score {score}", found, "score"))
    return tuple(
        _compare(metric, figures, unit)
        for metric, figures, unit in metrics
        if any(figure.value is not None for figure in figures.values())
    )


def _compare(metric: str, figures: Mapping[str, ArmFigure], unit: str) -> ArmComparison:
    values = {arm: figure.value for arm, figure in figures.items() if figure.value is not None}
    if len(values) < 2:
        return ArmComparison(metric, unit, figures, "", is_apart=False, needed=None)
    choose = max if unit == "score" else min
    best = choose(values, key=lambda arm: values[arm])
    needed = _estimate_needed(best, {arm: figures[arm] for arm in values})
    is_apart = needed is not None and not any(needed.values())
    return ArmComparison(metric, unit, figures, best, is_apart=is_apart, needed=needed)


def _estimate_needed(best: str, figures: Mapping[str, ArmFigure]) -> dict[str, int] | None:
    """Return how many further values of each arm part the best one from all others; None where that isn't known.

    Bounds come closer by the square root of the values behind them.
    """
    needed = dict.fromkeys(figures, 0)
    for arm, figure in figures.items():
        if arm == best:
            continue
        growth = _estimate_growth(figures[best], figure)
        for each in (best, arm):
            more = figures[each].count * (growth - 1)
            if more > _MAX_NEEDED:
                return None
            needed[each] = max(needed[each], math.ceil(more))
    return needed


def _estimate_growth(first: ArmFigure, second: ArmFigure) -> float:
    """Return by what two arms' values have to multiply until their intervals lie apart; 1 if they do."""
    low, high = sorted((first, second), key=lambda figure: figure.value or 0.0)
    if low.bounds.high < high.bounds.low:
        return 1.0
    gap = (high.value or 0.0) - (low.value or 0.0)
    reach = (low.bounds.high - (low.value or 0.0)) + ((high.value or 0.0) - high.bounds.low)
    return (reach / gap) ** 2 if gap > 0 and math.isfinite(reach) else math.inf
