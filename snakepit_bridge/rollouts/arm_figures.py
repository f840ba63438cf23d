"""What an arm's counts say of it: error rate, latency and scores, each with bounds that hold at every look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from snakepit_bridge.rollouts.arm_counts import ArmCounts
from snakepit_bridge.rollouts.confidence import RARE, Interval, bound_mean
from snakepit_bridge.rollouts.guard_reports import ArmFigure, measure_quantile

LEVEL = 0.05
"""The probability that the true value of any arm is ever outside of a metric's bounds."""


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """What was measured in one arm.

    Attributes:
        error_rate: failed predictions as a share of all.
        latency_p50, latency_p95: seconds that half and 95 % of the predictions take at most.
        scores: the mean of the scores, by name.
    """

    error_rate: ArmFigure
    latency_p50: ArmFigure
    latency_p95: ArmFigure
    scores: Mapping[str, ArmFigure]

    @classmethod
    def measure(cls, counts: ArmCounts, alpha: float) -> Self:
        """Return the figures of what was counted of an arm.

        Args:
            counts: of the arm.
            alpha: the probability that the true value of a metric is ever outside of its bounds.
        """
        failures = counts.failures
        rate = ArmFigure(failures.count, failures.mean if failures.count else None, bound_mean(failures, alpha, RARE))
        scores = {name: _measure_score(counts, name, alpha) for name in sorted(counts.scores)}
        return cls(rate, measure_quantile(counts, 0.5, alpha), measure_quantile(counts, 0.95, alpha), scores)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "error_rate": self.error_rate.as_dict(),
            "latency_p50_s": self.latency_p50.as_dict(),
            "latency_p95_s": self.latency_p95.as_dict(),
            "scores": {name: figure.as_dict() for name, figure in self.scores.items()},
        }


def _measure_score(counts: ArmCounts, name: str, alpha: float) -> ArmFigure:
    missing = counts.shortfalls(name)
    bounds = bound_mean(missing, alpha)
    value = missing.complement.mean if missing.count else None
    return ArmFigure(missing.count, value, Interval(1 - bounds.high, 1 - bounds.low))
