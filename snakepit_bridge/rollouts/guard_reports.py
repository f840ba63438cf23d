"""Evaluate a policy's guards on the counts of both arms, with the numbers that a person wants to see."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.rollouts.arm_counts import ArmCounts
from snakepit_bridge.rollouts.confidence import EVEN, RARE, Interval, Prior, ValueSum
from snakepit_bridge.rollouts.guard_rules import CostGuard, ErrorRateGuard, Guard, LatencyGuard, ScoreGuard
from snakepit_bridge.rollouts.guards import GuardVerdict, Margin, compare, compare_with_bound
from snakepit_bridge.rollouts.quantiles import bound_quantile, bound_quantile_ratio
from snakepit_bridge.rollouts.sketch import count_values, quantile
from snakepit_bridge.rollouts.units import format_interval

_MS_PER_S = 1_000


@dataclass(frozen=True, slots=True)
class ArmFigure:
    """What was measured in one arm, in the unit of a guard or a metric.

    Attributes:
        count: how many values there are.
        value: the measured one; None if there is none.
        bounds: the plausible ones.
    """

    count: int
    value: float | None
    bounds: Interval

    def describe(self, unit: str) -> str:
        """Return the figure as people read it, in a unit."""
        if self.value is None:
            return "no values"
        return format_interval(self.value, self.bounds.low, self.bounds.high, self.count, unit)

    def as_dict(self) -> dict[str, Any]:
        """Return the figure as JSON values; a bound that isn't known is null."""
        return {"count": self.count, "value": self.value, "bounds": _bounds(self.bounds)}


@dataclass(frozen=True, slots=True)
class GuardReport:
    """What a guard says of a candidate.

    Attributes:
        guard: the guard, as text.
        unit: of the figures: ``share``, ``s``, ``USD`` or ``score``.
        baseline: None if the guard bounds the candidate alone.
        candidate: see :class:`ArmFigure`.
        allowed: what the guard allows, such as its ``max_increase``.
        measured_harm: by how much the candidate is measured to be worse than is allowed; None without values. It is in
            the guard's unit, and a ratio for a guard of a quantile.
        harm: its plausible values.
    """

    guard: str
    unit: str
    baseline: ArmFigure | None
    candidate: ArmFigure
    allowed: float
    measured_harm: float | None
    harm: Interval

    @property
    def verdict(self) -> GuardVerdict:
        """What is known of the candidate."""
        return GuardVerdict.of(self.harm) if self.measured_harm is not None else GuardVerdict.OPEN

    @property
    def looks_harmful(self) -> bool:
        """Whether the candidate is measured to be worse than is allowed, which may still be chance."""
        return self.measured_harm is not None and self.measured_harm > 0

    def __str__(self) -> str:
        baseline = f", baseline {self.baseline.describe(self.unit)}" if self.baseline else ""
        return f"{self.guard}: candidate {self.candidate.describe(self.unit)}{baseline}"

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values; a bound that isn't known is null."""
        return {
            "guard": self.guard,
            "unit": self.unit,
            "verdict": self.verdict.value,
            "baseline": self.baseline.as_dict() if self.baseline else None,
            "candidate": self.candidate.as_dict(),
            "allowed": self.allowed,
            "measured_harm": self.measured_harm,
            "harm": _bounds(self.harm),
        }


@dataclass(frozen=True, slots=True)
class _Measure:
    """How a guard's metric becomes values in [0, 1] of which less is better, and what they are in its unit.

    Attributes:
        values: those of an arm.
        unit: see :class:`GuardReport`.
        prior: where their mean is expected.
        scale: what a value of 1 is in the unit.
        mirrored: whether the values are what the metric lacks to 1.
    """

    values: Callable[[ArmCounts], ValueSum]
    unit: str
    prior: Prior
    scale: float = 1.0
    mirrored: bool = False

    def figure(self, arm: ArmCounts, bounds: Interval) -> ArmFigure:
        values = self.values(arm)
        if self.mirrored:
            mean, bounds = values.complement.mean, Interval(1 - bounds.high, 1 - bounds.low)
        else:
            mean, bounds = values.mean * self.scale, Interval(bounds.low * self.scale, bounds.high * self.scale)
        return ArmFigure(values.count, mean if values.count else None, bounds)


def evaluate(guard: Guard, baseline: ArmCounts, candidate: ArmCounts, alpha: float) -> GuardReport:
    """Return what a guard says of a candidate; it may be asked at every moment.

    Args:
        guard: one of a policy's.
        baseline: what was counted of the arm that is trusted, since this stage began.
        candidate: what was counted of the arm that is tried, since this stage began.
        alpha: the probability that this guard ever calls a harmless candidate harmful in this stage.
    """
    if isinstance(guard, LatencyGuard) and guard.quantile is not None and guard.max_ratio is not None:
        return _evaluate_quantile(str(guard), guard.quantile, guard.max_ratio, baseline, candidate, alpha)
    measure, (key, allowed) = _measure(guard), guard.limit
    trusted, tried = measure.values(baseline), measure.values(candidate)
    if key in ("max_increase", "max_decrease", "max_ratio"):
        margin = Margin(relative=allowed - 1) if key == "max_ratio" else Margin(absolute=allowed)
        compared = compare(trusted, tried, margin, alpha, measure.prior)
        measured = tried.mean - (1 + margin.relative) * trusted.mean - margin.absolute
        has_values = bool(trusted.count and tried.count)
    else:
        largest = 1 - allowed if measure.mirrored else allowed / measure.scale
        compared = compare_with_bound(tried, largest, alpha, measure.prior)
        measured, has_values = tried.mean - largest, bool(tried.count)
    return GuardReport(
        guard=str(guard),
        unit=measure.unit,
        baseline=measure.figure(baseline, compared.baseline) if compared.baseline else None,
        candidate=measure.figure(candidate, compared.candidate),
        allowed=allowed,
        measured_harm=measured * measure.scale if has_values else None,
        harm=Interval(compared.harm.low * measure.scale, compared.harm.high * measure.scale),
    )


def _measure(guard: Guard) -> _Measure:
    match guard:
        case ErrorRateGuard():
            return _Measure(lambda arm: arm.failures, "share", RARE)
        case LatencyGuard():
            limit_s = guard.slower_than_s or 0.0
            return _Measure(lambda arm: arm.slower_than(limit_s), "share", RARE)
        case CostGuard():
            return _Measure(lambda arm: arm.capped_cost(guard.cap_usd), "USD", EVEN, scale=guard.cap_usd)
        case ScoreGuard():
            return _Measure(lambda arm: arm.shortfalls(guard.name), "score", EVEN, mirrored=True)


def _evaluate_quantile(
    guard: str, level: float, allowed: float, baseline: ArmCounts, candidate: ArmCounts, alpha: float
) -> GuardReport:
    """Compare the arms' quantiles of the latency as a ratio."""
    ratio = bound_quantile_ratio(baseline.latency, candidate.latency, level, alpha)
    trusted, tried = (measure_quantile(arm, level, alpha) for arm in (baseline, candidate))
    measured = tried.value / trusted.value - allowed if tried.value is not None and trusted.value else None
    harm = Interval(ratio.low - allowed, ratio.high - allowed)
    return GuardReport(guard, "s", trusted, tried, allowed, measured, harm)


def measure_quantile(arm: ArmCounts, level: float, alpha: float) -> ArmFigure:
    """Return a quantile of an arm's latencies in seconds, with bounds that hold at all looks together.

    Args:
        arm: what was counted of it.
        level: of the quantile, such as 0.95.
        alpha: the probability that the true quantile is ever outside of the bounds.
    """
    value, bounds = quantile(arm.latency, level), bound_quantile(arm.latency, level, alpha)
    seconds = None if value is None else value / _MS_PER_S
    return ArmFigure(count_values(arm.latency), seconds, Interval(bounds.low / _MS_PER_S, bounds.high / _MS_PER_S))


def _bounds(interval: Interval) -> list[float | None]:
    return [bound if math.isfinite(bound) else None for bound in (interval.low, interval.high)]
